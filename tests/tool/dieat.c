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
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_step(pid_t pid, const struct __ptrace_syscall_info *si)
{
	static bool begun;
	struct iovec local, remote;
	char path[256] = "";

	switch (si->entry.nr) {
	case SYS_mkdir:
		local = (struct iovec){ path, sizeof(path) - 1 };
		remote = (struct iovec){ (void *)si->entry.args[0], sizeof(path) - 1 };
		process_vm_readv(pid, &local, 1, &remote, 1, 0);
		begun |= !!strchr(path, '~');
		return begun;
	case SYS_bpf:
	case SYS_renameat2:
	case SYS_unlink:
	case SYS_rmdir:
		return begun;
	}
	return false;
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
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return 1;
	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (int sig = 0;;) {
		struct __ptrace_syscall_info si;

		ptrace(PTRACE_SYSCALL, pid, NULL, sig);
		if (waitpid(pid, &status, 0) != pid)
			return 1;
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		if (WIFSIGNALED(status))
			return 128 + WTERMSIG(status);
		if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			sig = WSTOPSIG(status);
			continue;
		}
		sig = 0;
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(si), &si) <= 0 ||
		    si.op != PTRACE_SYSCALL_INFO_ENTRY || !is_step(pid, &si) || --left)
			continue;
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return 137;
	}
}
