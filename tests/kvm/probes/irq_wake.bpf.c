// SPDX-License-Identifier: GPL-2.0
/* run() wakes a thread: a work item, which counts. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

extern int bpf_wq_init(struct bpf_wq *wq, void *map, unsigned int flags) __weak __ksym;
extern int bpf_wq_start(struct bpf_wq *wq, unsigned int flags) __weak __ksym;
extern int bpf_wq_set_callback_impl(struct bpf_wq *wq,
				    int (*callback)(void *map, int *key, void *value),
				    unsigned int flags, void *aux) __weak __ksym;

struct item {
	struct bpf_wq wq;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct item);
} items SEC(".maps");

u64 woken SEC(".bss") = 0;

static int count(void *map, int *key, void *value)
{
	__sync_fetch_and_add(&woken, 1);
	return 0;
}

SEC("struct_ops/run")
void BPF_PROG(irq_wake_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how, u64 off_ns)
{
	int key = 0;
	struct item *i = bpf_map_lookup_elem(&items, &key);

	if (!i)
		return;
	/* The first time alone it succeeds */
	bpf_wq_init(&i->wq, &items, 0);
	bpf_wq_set_callback_impl(&i->wq, count, 0, NULL);
	bpf_wq_start(&i->wq, 0);
}

KVMEXT_ABOUT("test only: run() wakes a thread")
SEC(".struct_ops.link")
struct kvm_irq_ops irq_wake = {
	.name = "irq_wake",
	.run = (void *)irq_wake_run,
};
