package attack_test

const killerEnv = "BERTH_ATTACK_KILLER"

func killer([]string) int { return 0 }
