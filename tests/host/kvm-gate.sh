#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The gate that KVM's selftests are run in lets nothing through. Stand-ins for tests end
# in each way there is, on stock modules and on ours with noop.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=build/selftests/gate
rm -rf $dir
mkdir -p $dir

ours='[ -e /sys/module/kvm/parameters/ext_enable ]'
# put NAME COMMANDS
put() { printf '#!/bin/sh\n%s\n' "$2" >$dir/$1; chmod +x $dir/$1; }
put passes true
put skips 'echo "1..0 # SKIP - not today"; exit 4'
put fails_on_both 'exit 254'
put fails_on_ours "! $ours"
put skips_on_ours "$ours && exit 4; exit 0"
put fails_as_known 'echo "as we know" >&2; exit 254'
put fails_otherwise 'echo "as nobody knows" >&2; exit 254'
put passes_though_known true
put hangs 'trap "" TERM; while :; do :; done'
put panics "$ours || exit 0; echo c >/proc/sysrq-trigger; sleep 60"
put splats "$ours && echo 'WARNING: not real' >/dev/kmsg; exit 0"
put unloads "$ours && build/kvmext unload noop; exit 0"
cat >$dir/tests.toml <<'END'
[fails_as_known]
known = "fail"
match = "as we know"
why = "it is known"
[fails_otherwise]
known = "fail"
match = "as we know"
why = "it is known"
[passes_though_known]
known = "fail"
why = "it is known"
[hangs]
limit = 2
END

tests/kvm-selftests/compare.py --folder $dir --way stock --way noop --slow 2 --json $dir/json >$dir/log 2>&1
status=$?
python3 - $dir/json $status <<'END'
import json, sys
j = json.load(open(sys.argv[1]))
want = {    # on stock, on ours, in how many of these it does not get through
    "passes": ("pass", "pass", 0),
    "skips": ("skip", "skip", 0),
    "fails_on_both": ("fail", "fail", 2),
    "fails_on_ours": ("pass", "fail", 1),
    "skips_on_ours": ("pass", "skip", 1),
    "fails_as_known": ("fail", "fail", 0),
    "fails_otherwise": ("fail", "fail", 2),
    "passes_though_known": ("pass", "pass", 0),
    "hangs": ("timeout", "timeout", 2),
    "panics": ("pass", "died", 1),
    "splats": ("pass", "pass", 0),
    "unloads": ("pass", "fail", 1),
}
n = bad = 0
def ok(good, what):
    global n, bad
    n += 1
    bad += not good
    print(f"{'ok' if good else 'not ok'} {n} - {what}")
print(f"1..{len(want) + 6}")
for name, (stock, noop, refused) in want.items():
    r = j["tests"].get(name, {})
    got = [r.get(w, {}).get("verdict") for w in ("stock", "noop")]
    failed = sum(f.startswith(name + " ") for f in j["failed"])
    ok(got == [stock, noop] and failed == refused, f"{name}: {got}, {failed} refused")
ok(j["tests"].keys() == want.keys(), "every test ran, and no other")
ok(j["tests"]["skips"]["noop"]["why"] == "not today", "a skip says why")
ok(any(f.startswith("kernel log noop") and "splats: " in f for f in j["failed"]), "a splat is refused")
ok(any(f.startswith("policies noop") for f in j["failed"]), "a policy that is gone or was not called is refused")
ok(any("passes_though_known" in n for n in j["notes"]), "a known failure that passes is told")
ok(sys.argv[2] == "1", f"the gate's exit status is 1: {sys.argv[2]}")
sys.exit(bad != 0)
END
bad=$?
[ $bad = 0 ] || sed 's/^/# /' $dir/log
exit $bad
