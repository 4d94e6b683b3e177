#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The fast subset of KVM's own selftests in the debug kernel, on the series' modules with
# noop attached: what they reach of KVM, looked at by lockdep, KASAN and the rest.  On
# stock modules too, as KVM has splats of its own (xen_shinfo_test: invalid wait context).
exec tests/kvm-selftests/compare.py --fast --way stock --way noop --kernel debug --slow 20 --keep-stock --tap \
	--json build/results/test-kvm-debug.json
