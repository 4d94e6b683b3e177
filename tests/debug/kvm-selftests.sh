#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The fast subset of KVM's own selftests passes in the debug kernel, on the series'
# modules with noop attached. Lockdep, KASAN and the rest look at what they reach of
# KVM. They run on stock modules too, as KVM has splats of its own (xen_shinfo_test:
# invalid wait context).
exec tests/kvm-selftests/compare.py --fast --way stock --way noop --kernel debug --slow 20 --keep-stock --tap \
	--json build/results/test-kvm-debug.json
