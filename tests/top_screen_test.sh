#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top on a terminal, and kvmext dirty, on kvm_ext's modules.
exec "$(dirname "$0")/tool/top_run.sh" ours screen dirty_pages not_logged
