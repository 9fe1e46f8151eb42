package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestJudgeTAP(t *testing.T) {
	for name, c := range map[string]struct {
		out, errs string
		err       error
		want      result
	}{
		"passes":            {out: "TAP version 13\nok 1 - a\n  ---\n  {\"x\": \"not ok\"}\n  ...\nok 2 - b\n1..2\n", want: result{outcome: pass, ok: 2}},
		"plan first":        {out: "1..1\nok 1\n", want: result{outcome: pass, ok: 1}},
		"second empty plan": {out: "ok 1\n1..1\n1..0\n", want: result{outcome: pass, ok: 1}},
		"not ok":            {out: "ok 1 - a\nnot ok 2 - b\n1..2\n", want: result{outcome: fail, ok: 1, bad: 1, why: "b"}},
		"some skipped":      {out: "ok 1 # SKIP x not set\nok 2 - b\n1..2\n", want: result{outcome: pass, ok: 2}},
		"all skipped":       {out: "ok 1 # skip x not set\n1..1\n", want: result{outcome: empty, ok: 1, why: "all skipped"}},
		"nothing":           {out: "TAP version 13\n1..0\n", want: result{outcome: empty, why: "nothing tested"}},
		"no plan":           {out: "ok 1 - a\n", want: result{outcome: fail, ok: 1, why: "1 results of -1 planned"}},
		"fewer than planned": {out: "ok 1 - a\n1..3\n",
			want: result{outcome: fail, ok: 1, why: "1 results of 3 planned"}},
		"status": {out: "ok 1 - a\n1..1\n", errs: "failed to create the container\nno such thing\nexit status 1\n", err: errors.New("exit status 1"),
			want: result{outcome: fail, ok: 1, why: "exit status 1: no such thing"}},
	} {
		if got := judgeTAP(c.out, c.errs, c.err); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestExpectations(t *testing.T) {
	list, err := readExpectations("expected.txt", host())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Error("expected.txt: nothing in it")
	}
	for _, bad := range []string{"p fail any reason", `p fail any "text"`, `p never any "text" reason`, `p fail "text" reason`} {
		if _, _, err := expectationOf(bad, nil); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
	e, holds, err := expectationOf(`p fail cgroup1+no-selinux "not mounted" because`, []string{"cgroup1", "selinux"})
	if err != nil || holds || e.text != "not mounted" || e.reason != "because" {
		t.Errorf("%+v, %v, %v", e, holds, err)
	}
}

func TestJudge(t *testing.T) {
	ok, bad := result{outcome: pass, ok: 1}, result{outcome: fail, why: "x is missing"}
	listed := map[string][]expectation{"p": {{outcome: fail, text: "missing", reason: "r"}}}
	races := map[string][]expectation{"p": {{outcome: fail, races: true, text: "missing", reason: "r"}}}
	for name, c := range map[string]struct {
		columns [][]result
		list    map[string][]expectation
		failed  int
	}{
		"passes":                         {[][]result{{ok}}, nil, 0},
		"fails":                          {[][]result{{bad}}, nil, 1},
		"fails as listed":                {[][]result{{bad}}, listed, 0},
		"fails in another way":           {[][]result{{{outcome: fail, why: "y"}}}, listed, 1},
		"races and passes":               {[][]result{{ok}}, races, 0},
		"races and fails":                {[][]result{{bad}}, races, 0},
		"races, fails in another way":    {[][]result{{{outcome: fail, why: "y"}}}, races, 1},
		"listed and passes":              {[][]result{{ok}}, listed, 1},
		"listed, but all others pass":    {[][]result{{bad}, {ok}, {ok}}, listed, 1},
		"listed, and another one passes": {[][]result{{bad}, {ok}, {bad}}, listed, 0},
	} {
		totals := filepath.Join(t.TempDir(), "totals")
		failed, err := judge([]string{"p"}, c.columns, c.list, totals)
		if err != nil || failed != c.failed {
			t.Errorf("%s: %d failed, %v; want %d", name, failed, err, c.failed)
		}
		if text, err := os.ReadFile(totals); err != nil || len(strings.Fields(string(text))) != 3 {
			t.Errorf("%s: totals %q, %v", name, text, err)
		}
	}
}

func TestAllow(t *testing.T) {
	name := filepath.Join(t.TempDir(), "config.json")
	const before = `{"linux":{"x":1e20,"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}}}`
	if err := os.WriteFile(name, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := edit(name, allow); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Linux struct {
			X       json.RawMessage
			Seccomp struct {
				Syscalls []struct{ Names []string }
			}
		}
	}
	text, _ := os.ReadFile(name)
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	rules := got.Linux.Seccomp.Syscalls
	if len(rules) != 2 || !slices.Contains(rules[1].Names, "statx") || string(got.Linux.X) != "1e20" {
		t.Errorf("%s", text)
	}
	for _, same := range []string{`{}`, `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`, `broken`, `{"linux":"invalid"}`} {
		if err := os.WriteFile(name, []byte(same), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := edit(name, allow); err != nil {
			t.Errorf("%s: %v", same, err)
		}
		if text, _ := os.ReadFile(name); string(text) != same {
			t.Errorf("%s became %s", same, text)
		}
	}
}

func TestBinds(t *testing.T) {
	d := document{"mounts": json.RawMessage(`[{"options":["ro","mode=755"]},{"destination":"/a","options":["size=1k","rbind","mode=755","shared"]},{}]`)}
	if err := binds(d); err != nil || string(d["mounts"]) != `[{"options":["ro","mode=755"]},{"destination":"/a","options":["rbind","shared"]},{}]` {
		t.Errorf("%s, %v", d["mounts"], err)
	}
}
