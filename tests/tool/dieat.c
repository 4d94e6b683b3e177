// SPDX-License-Identifier: GPL-2.0
/*
 * Kill a program at one exact step:
 *
 *   dieat N CMD ARGS...
 *
 * Steps are the system calls that change or ask BPF objects and folders, counted
 * from the first folder made whose name has a "~" in it, which is where kvmext
 * begins to change what others can see.  The N-th is not carried out: CMD gets
 * SIGKILL on its way into it.  Exit status 137 then, else CMD's own.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only the steps stop: a tool that is stopped at each read() would take ages. */
static int stop_at_steps(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdir, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unlink, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rmdir, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static bool is_step(pid_t pid)
{
	static bool begun;
	struct __ptrace_syscall_info si = {};
	struct iovec local, remote;
	char path[256] = "";

	if (begun)
		return true;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(si), &si) <= 0 ||
	    si.op != PTRACE_SYSCALL_INFO_SECCOMP || si.seccomp.nr != SYS_mkdir)
		return false;
	local = (struct iovec){ path, sizeof(path) - 1 };
	remote = (struct iovec){ (void *)si.seccomp.args[0], sizeof(path) - 1 };
	process_vm_readv(pid, &local, 1, &remote, 1, 0);
	begun = strchr(path, '~');
	return begun;
}

int main(int argc, char **argv)
{
	int left = argc > 2 ? atoi(argv[1]) : 0, status;
	pid_t pid;

	if (left < 1)
		return 2;
	pid = fork();
	if (pid < 0)
		return 1;
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		if (stop_at_steps())
			_exit(126);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return 1;
	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL);
	for (int sig = 0;;) {
		ptrace(PTRACE_CONT, pid, NULL, sig);
		if (waitpid(pid, &status, 0) != pid)
			return 1;
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		if (WIFSIGNALED(status))
			return 128 + WTERMSIG(status);
		sig = 0;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8)) {
			if (!is_step(pid) || --left)
				continue;
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return 137;
		}
		if (WSTOPSIG(status) != SIGTRAP)
			sig = WSTOPSIG(status);
	}
}
