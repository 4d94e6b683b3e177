#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The fast subset of KVM's own selftests passes. `make test-kvm` runs all of them.
exec tests/kvm-selftests/compare.py --fast --tap --keep-stock
