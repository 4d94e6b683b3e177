#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top works where kvm_ext's modules are not: on an emulated host with the
# distribution's own.
cd "$(dirname "$0")/../.." || exit 1
exec tests/machine/run --modules stock -- tests/tool/top_test.sh
