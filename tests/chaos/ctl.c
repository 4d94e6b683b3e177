// SPDX-License-Identifier: GPL-2.0
/*
 * Policies by libbpf, for the chaos test: commands on standard input, one a line,
 * each answered by "ok" or "err -N".  Nothing is pinned: what is attached goes
 * when this process does.
 *
 *   put SLOT PID ANSWER HOW        the probe policy, PID 0 for every VM; in place of the
 *                                  one that this slot has, if it is the same VM
 *   set SLOT HOW ANSWER ERRORS     its parameters, while it runs
 *   swap SLOT PID N                there and back, N times
 *   detach SLOT
 *   mark PID VCPU ON
 */
#include "tests/lib/ext.h"

#define SLOTS 4

static struct probe slots[SLOTS];

static int load(struct probe *p, unsigned int slot, unsigned int pid, long long answer,
		unsigned int how)
{
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "chaos%u", slot);
	ret = probe_load(p, name, pid, F_ANY_VCPU, PROBE_ALL);
	if (!ret) {
		p->k->answer = answer;
		p->k->how = how;
	}
	return ret;
}

/* The new one takes over the old one's link. */
static int update(struct probe *p, unsigned int slot, unsigned int pid, long long answer,
		  unsigned int how)
{
	struct probe new;
	int ret = load(&new, slot, pid, answer, how);

	if (!ret)
		ret = ext_update(p->link, new.ops);
	if (!ret) {
		new.link = p->link;
		p->link = NULL;
		probe_free(p);
		*p = new;
	} else {
		probe_free(&new);
	}
	return ret;
}

static int swap(struct probe *p, unsigned int slot, unsigned int pid, int n)
{
	struct probe other;
	int ret = load(&other, slot, pid, MS, PROBE_FIXED);

	for (int i = 0; !ret && i < n; i++)
		ret = ext_update(p->link, other.ops) ?: ext_update(p->link, p->ops);
	/* If it ended half-way, the link keeps the other table's map. */
	probe_free(&other);
	return ret;
}

static int command(const char *line)
{
	unsigned int slot = 0, a = 0, how = 0;
	long long b = 0;
	char word[16] = "";
	struct probe *p;
	int ret;

	sscanf(line, "%15s %u %u %lld %u", word, &slot, &a, &b, &how);
	if (!strcmp(word, "mark"))
		return ext_mark(slot, a, b);
	if (slot >= SLOTS)
		return -EINVAL;
	p = &slots[slot];
	if (!strcmp(word, "put")) {
		/* What is out of charge for good makes room. */
		ret = p->link ? update(p, slot, a, b, how) : -ESRCH;
		if (ret != -ESRCH && ret != -EINVAL)
			return ret;
		probe_free(p);
		ret = load(p, slot, a, b, how) ?: probe_attach(p);
		if (ret)
			probe_free(p);
		return ret;
	}
	if (!p->link)
		return -EBADF;
	if (!strcmp(word, "swap"))
		return swap(p, slot, a, b);
	if (!strcmp(word, "set")) {
		p->k->answer = b;
		p->k->how = a;
		p->k->error_ops = how;
		return 0;
	}
	if (!strcmp(word, "detach")) {
		probe_free(p);
		return 0;
	}
	return -EINVAL;
}

int main(void)
{
	char line[128];

	puts("ok");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int ret = command(line);

		printf(ret ? "err %d\n" : "ok\n", ret);
		fflush(stdout);
	}
	return 0;
}
