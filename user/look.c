// SPDX-License-Identifier: GPL-2.0
/* What KVM has decided about VMs, found by their files. */
#include "look.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "look_vm.h"

#include "user/look.skel.h"

static int read_vms(int iter, int (*fn)(const struct look_vm *vm, void *arg), void *arg)
{
	struct look_vm vm;
	size_t len = 0;
	ssize_t n;
	int ret = 0;

	while (!ret) {
		n = read(iter, (char *)&vm + len, sizeof(vm) - len);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		len += n;
		if (len < sizeof(vm))
			continue;
		len = 0;
		ret = fn(&vm, arg);
	}
	return ret;
}

int vms_look(uint32_t pid, int (*fn)(const struct look_vm *vm, void *arg), void *arg)
{
	union bpf_iter_link_info info = { .task.pid = pid };
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));
	static struct look_bpf *skel;
	static int err;
	struct bpf_link *link = NULL;
	int iter, ret;

	if (!skel && !err) {
		skel = look_bpf__open_and_load();
		err = skel ? 0 : -errno;
	}
	if (!skel)
		return err;
	/* Since 6.1; before, all processes are looked at. */
	if (pid)
		link = bpf_program__attach_iter(skel->progs.look, &opts);
	if (!link)
		link = bpf_program__attach_iter(skel->progs.look, NULL);
	iter = link ? bpf_iter_create(bpf_link__fd(link)) : -errno;
	ret = iter < 0 ? iter : read_vms(iter, fn, arg);
	if (iter >= 0)
		close(iter);
	bpf_link__destroy(link);
	return ret;
}

/* A name without what all of them begin with */
static void add_name(char *text, size_t size, const char *name)
{
	static const char head[] = "APICV_INHIBIT_REASON_";
	size_t len = strlen(text);

	if (!strncmp(name, head, sizeof(head) - 1))
		name += sizeof(head) - 1;
	if (len && len < size - 1)
		text[len++] = ',';
	for (; *name && len < size - 1; name++)
		text[len++] = tolower(*name);
	text[len] = 0;
}

/* The kernel's names of the reasons, read once: it takes a while */
static const char *inhibit_name(int bit)
{
	static const char *names[64];
	static bool known;
	struct btf *btf = known ? NULL : kvm_btf();
	int id = btf ? btf__find_by_name_kind(btf, "kvm_apicv_inhibit", BTF_KIND_ENUM) : -ENOENT;
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, id) : NULL;

	known = true;
	for (int i = 0; t && i < btf_vlen(t); i++) {
		const char *name = btf__name_by_offset(btf, btf_enum(t)[i].name_off);

		if ((uint32_t)btf_enum(t)[i].val < ARRAY_SIZE(names) && strncmp(name, "NR_", 3))
			names[btf_enum(t)[i].val] = name;
	}
	return names[bit];
}

const char *apicv_text(uint64_t inhibits)
{
	static char text[256];

	if (inhibits == LOOK_UNKNOWN)
		return NULL;
	*text = 0;
	for (int bit = 0; bit < 64; bit++) {
		char number[16];
		const char *name;

		if (!(inhibits >> bit & 1))
			continue;
		name = inhibit_name(bit);
		snprintf(number, sizeof(number), "reason %d", bit);
		add_name(text, sizeof(text), name ?: number);
	}
	return text;
}
