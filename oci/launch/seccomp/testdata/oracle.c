/*
 * Builds a filter with libseccomp from lines on stdin and writes it to stdout.
 *   default ACTION | arch TOKEN | rule ACTION NAME N {INDEX OP A B}*
 * With an argument: prints "NAME NUMBER" for each name on stdin in that
 * architecture, names libseccomp does not know left out.
 */
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

static int names(const char *arch)
{
	char name[128];
	uint32_t token = seccomp_arch_resolve_name(arch);
	while (scanf("%127s", name) == 1) {
		int nr = seccomp_syscall_resolve_name_arch(token, name);
		if (nr != __NR_SCMP_ERROR)
			printf("%s %d\n", name, nr);
	}
	return 0;
}

static int check(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-rc));
		exit(1);
	}
	return rc;
}

int main(int argc, char **argv)
{
	scmp_filter_ctx ctx = NULL;
	char verb[16], name[128];
	unsigned action;
	if (argc > 1)
		return names(argv[1]);
	while (scanf("%15s", verb) == 1) {
		if (!strcmp(verb, "default")) {
			if (scanf("%u", &action) != 1)
				return 2;
			ctx = seccomp_init(action);
			if (!ctx)
				return 3;
		} else if (!strcmp(verb, "arch")) {
			if (scanf("%127s", name) != 1)
				return 2;
			int rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(name));
			if (rc != -EEXIST)
				check(rc, name);
		} else if (!strcmp(verb, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned n;
			if (scanf("%u %127s %u", &action, name, &n) != 3 || n > 6)
				return 2;
			for (unsigned i = 0; i < n; i++) {
				unsigned index, op;
				unsigned long a, b;
				if (scanf("%u %u %lu %lu", &index, &op, &a, &b) != 4)
					return 2;
				args[i] = (struct scmp_arg_cmp){index, op, a, b};
			}
			int nr = seccomp_syscall_resolve_name(name);
			if (nr == __NR_SCMP_ERROR)
				continue;
			check(seccomp_rule_add_array(ctx, action, nr, n, args), name);
		} else {
			return 2;
		}
	}
	check(seccomp_export_bpf(ctx, 1), "export");
	return 0;
}
