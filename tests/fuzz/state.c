// SPDX-License-Identifier: GPL-2.0
/* Fuzz the reader of the kernel's state file, and what list and status make of it. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/kvmext-fuzz.XXXXXX";
static char file[sizeof(dir) + 16];

static void cleanup(void)
{
	static const char *const tails[] = { "/kvm/ext", "/kvm", "" };
	char path[sizeof(file)];

	unlink(file);
	for (size_t i = 0; i < ARRAY_SIZE(tails); i++) {
		snprintf(path, sizeof(path), "%s%s", dir, tails[i]);
		rmdir(path);
	}
}

static void setup(void)
{
	if (*file)
		return;
	if (!mkdtemp(dir))
		abort();
	snprintf(file, sizeof(file), "%s/kvm", dir);
	mkdir(file, 0700);
	snprintf(file, sizeof(file), "%s/kvm/ext", dir);
	mkdir(file, 0700);
	snprintf(file, sizeof(file), "%s/kvm/ext/state", dir);
	atexit(cleanup);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *const cmds[] = { "list", "status" };
	/* Without it nothing else would be read; half of the inputs have another line there. */
	static const char head[] = "version 1\n";
	size_t len = size & 1 ? 0 : sizeof(head) - 1;
	int fd;

	setup();
	fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, head, len) != (ssize_t)len ||
	    write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
	fuzz_privilege = OK;
	for (int i = 0; i < 4; i++) {
		/* No bpffs there: pins are not what this is about, and BPF not to be reached. */
		char *argv[] = { "kvmext",    i & 1 ? "--json" : "--quiet",
				 "--debugfs", dir,
				 "--bpffs",   dir,
				 cmds[i / 2], NULL };

		fuzz_run(7, argv);
	}
	return 0;
}
