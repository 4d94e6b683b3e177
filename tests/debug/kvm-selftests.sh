#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The fast subset of KVM's own selftests in the debug kernel, on the series' modules with
# noop attached: what they reach of KVM, looked at by lockdep, KASAN and the rest.
exec tests/selftests/run --fast --way noop --kernel debug --slow 20 --tap \
	--json build/results/test-kvm-debug.json
