// SPDX-License-Identifier: GPL-2.0
/*
 * sticky: stay with the vCPU that took the last one, for as long as it may.
 *
 * It moves only when that vCPU has waited for a CPU for longer than is bearable
 * and another candidate runs, or when the guest took it out of the set.
 *
 * For: guests whose handlers like a warm cache, on hosts that are busy at times.
 * Not for: hosts where vCPUs wait often and shortly: it bears that.
 */
#include "irq.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, bear, 2000, 0, 1000000, "us",
	     "how long the vCPU may have waited for a CPU before its interrupts move");

KVMEXT_COUNTER(u64, stays, "", "interrupts to the vCPU that took the one before");
KVMEXT_COUNTER(u64, moves, "", "interrupts to another");

SEC("struct_ops/route")
s32 BPF_PROG(sticky_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct irq_line *line = irq_line(kvm, irq);
	struct kvm_irq_candidate c;
	s32 last, to = -1;
	u32 i;

	if (!line)
		return KVM_IRQ_DEFAULT;

	last = irq_last(line, irq, &c);
	if (last >= 0 && (!(c.state & KVM_IRQ_PREEMPTED) || !c.since_ns ||
			  bpf_ktime_get_ns() - c.since_ns <= bear * 1000ULL)) {
		__sync_fetch_and_add(&stays, 1);
		return last;
	}

	/* From KVM's choice on, which is another for each vector: so sources do not pile up */
	bpf_for(i, 0, irq->nr) {
		u32 at = (i + (irq->own >= 0 ? irq->own : 0)) % irq->nr;

		if (!kvm_irq_look(irq, at, &c) && c.state & IRQ_RUNS) {
			to = at;
			break;
		}
	}
	/* Nobody is better: stay, or begin where KVM would */
	if (to < 0)
		to = last >= 0 ? last : irq->own;
	if (to < 0)
		to = 0;
	if (to == last) {
		__sync_fetch_and_add(&stays, 1);
		return to;
	}
	if (kvm_irq_look(irq, to, &c))
		return KVM_IRQ_DEFAULT;
	if (last >= 0)
		__sync_fetch_and_add(&moves, 1);
	irq_took(line, to, c.vcpu_idx);
	return to;
}

SEC("struct_ops/retarget")
s32 BPF_PROG(sticky_retarget, struct kvm *kvm, u32 left)
{
	return left >> KVM_IRQ_RUN_PREEMPTED & 1;
}

SEC("struct_ops/end")
void BPF_PROG(sticky_end, struct kvm *kvm)
{
	irq_forget(kvm);
}

KVMEXT_ABOUT("stays with one vCPU until that has to wait for a CPU for too long")
SEC(".struct_ops.link")
struct kvm_irq_ops sticky = {
	.name = "sticky",
	.route = (void *)sticky_route,
	.retarget = (void *)sticky_retarget,
	.end = (void *)sticky_end,
};
