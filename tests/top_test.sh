#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top on kvm_ext's modules: against the truth, and what it refuses.
exec "$(dirname "$0")/tool/top_run.sh" ours truth lines_of_text picture refusals tables inhibited stalled
