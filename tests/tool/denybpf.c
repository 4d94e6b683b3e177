// SPDX-License-Identifier: GPL-2.0
/*
 * Run a program for which one command of bpf(2) fails, as when memory is short or a security
 * module is in the way:
 *
 *   denybpf ERRNO CMD PROG [ARG...]   both as numbers
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned int err = argc > 3 ? atoi(argv[1]) : 0, cmd = argc > 3 ? atoi(argv[2]) : 0;
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, cmd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (err & SECCOMP_RET_DATA)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };

	if (!err)
		return 2;
	/* Root needs no PR_SET_NO_NEW_PRIVS, which would change what the program may do. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog)) {
		perror("denybpf: seccomp");
		return 2;
	}
	execvp(argv[3], argv + 3);
	perror("denybpf: exec");
	return 2;
}
