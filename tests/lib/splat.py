# SPDX-License-Identifier: GPL-2.0
"""What in a kernel log is a splat: a line that something is wrong in the kernel."""
import re

SPLAT = re.compile(
    # any kernel's
    r"WARNING:|BUG:|kernel BUG at|Oops|Call Trace|general protection|soft lockup|"
    r"rcu.*(detected|starved|stalls? on)|Kernel panic|UBSAN|blocked for more|"
    # a debug kernel's: locks, RCU, context
    r"INFO: (possible|trying to register)|suspicious RCU|sleeping function called|"
    r"scheduling while atomic|\bbad: scheduling|held lock freed|bad unlock balance|"
    r"DEBUG_LOCKS_WARN_ON|"
    # which ends the watch: no later report is to be had
    r"turning off the locking correctness|lockdep is turned off|"
    r"Disabling lock debugging|"
    # memory and objects
    r"KASAN|ODEBUG|refcount_t:|list_(add|del) (corruption|double)|(add|del) corruption|"
    r"pagealloc: (memory corruption|single bit error)|Bad page|Bad rss-counter|page_table_check")
