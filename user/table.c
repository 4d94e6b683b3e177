// SPDX-License-Identifier: GPL-2.0
/* What of the kernel the tool knows by name: the one place where it stands. */
#include "table.h"

#include "base.h"

const struct table tables[] = {
	{ .name = "throttle", .ops = "kvm_throttle_ops" },
	{ .name = "irq", .ops = "kvm_irq_ops" },
	{ .name = "save", .ops = "kvm_save_ops" },
	{ .name = "dirty", .ops = "kvm_dirty_ops" },
};
const int nr_tables = ARRAY_SIZE(tables);

/* clang-format off */
const struct point points[POINTS] = {
	[POINT_EXIT]        = { TRACEPOINT, "kvm_exit", NULL, "exit", "trace exit, hist exit, top" },
	[POINT_FAULT]       = { TRACEPOINT, "kvm_page_fault", NULL, "fault", "trace fault" },
	[POINT_DIRTY]       = { FUNCTION, "mark_page_dirty_in_slot", "kvm",
				"dirty", "trace dirty, top; dirty takes write faults" },
	[POINT_BLOCK]       = { TRACEPOINT, "kvm_throttle_block", NULL,
				"throttle", "trace throttle, hist block, top" },
	[POINT_INJECT]      = { TRACEPOINT, "kvm_inj_virq", NULL,
				"inject", "trace irq, hist inject, top" },
	[POINT_SVM_IRQ]     = { FUNCTION, "svm_deliver_interrupt", "kvm_amd",
				"injection latency", "top" },
	[POINT_VMX_IRQ]     = { FUNCTION, "vmx_deliver_interrupt", "kvm_intel",
				"injection latency", "top" },
	[POINT_WAKEUP]      = { TRACEPOINT, "kvm_vcpu_wakeup", NULL, "halted", "trace irq, top" },
	[POINT_WAKING]      = { TRACEPOINT, "sched_waking", NULL,
				"wake-up latency", "hist wakeup, top" },
	[POINT_ACCEPT]      = { TRACEPOINT, "kvm_apic_accept_irq", NULL,
				"interrupt's vCPU", "hist irq; exact with injection latency's" },
	[POINT_READY]       = { STRUCT, "sched_info", NULL, "ready", "top" },
	[POINT_ATTACH]      = { TRACEPOINT, "kvm_ext_attach", NULL, "policy", "trace policy" },
	[POINT_UPDATE]      = { TRACEPOINT, "kvm_ext_update" },
	[POINT_DETACH]      = { TRACEPOINT, "kvm_ext_detach" },
	[POINT_EJECT]       = { TRACEPOINT, "kvm_ext_eject" },
	[POINT_TAKE]        = { TRACEPOINT, "kvm_ext_take" },
	[POINT_ENTRY]       = { TRACEPOINT, "kvm_entry" },
	[POINT_USER_EXIT]   = { TRACEPOINT, "kvm_userspace_exit" },
	[POINT_FPU]         = { TRACEPOINT, "kvm_fpu" },
	[POINT_THREAD_EXIT] = { TRACEPOINT, "sched_process_exit" },
	[POINT_HALT]        = { FUNCTION, "kvm_vcpu_halt", "kvm" },
	[POINT_DESTROY]     = { FUNCTION, "kvm_arch_vcpu_destroy", "kvm" },
	[POINT_MARK]        = { TRACEPOINT, "kvm_throttle_mark" },
	[POINT_ASK]         = { TRACEPOINT, "kvm_throttle_ask" },
	[POINT_DIRTY_LOG]   = { TRACEPOINT, "kvm_throttle_dirty_log" },
	[POINT_EXCEPTION]   = { TRACEPOINT, "kvm_inj_exception" },
	[POINT_MSI]         = { TRACEPOINT, "kvm_msi_set_irq" },
	[POINT_ROUTE]       = { TRACEPOINT, "kvm_irq_route" },
	[POINT_RETARGET]    = { TRACEPOINT, "kvm_irq_retarget" },
};
/* clang-format on */
