#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# README.md is short, and tests run its commands, which they take from the page. README.md and
# the other pages for a first reading name nothing that is not there.
#
# Who runs a command: tests/tool/readme_test.sh runs whole blocks in the emulated host; "make
# demo" is run here; "make test" is what runs this, and .ci/run runs it.  A command that none
# of these runs fails.  There are no exceptions; a list of them would stand here.
#
# A demo that once printed what the page shows is not run again until page, demo, modules or
# policy change.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
. tests/host/passed.sh
unset MAKEFLAGS MFLAGS MAKELEVEL TESTS KVMEXT_HOST
pages=(README.md CHANGES kernel-patches/README.md tests/README.md tests/bench/README.md)
page() { tests/lib/readme.py "$@"; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

. tests/lib/host.sh
# none WHAT COMMAND...: it succeeds and prints nothing
none() {
	local what=$1 log
	shift
	log=$("$@" 2>&1) && [ -z "$log" ]
	local status=$?
	[ $status = 0 ] || sed 's/^/# /' <<<"$log"
	result $status "$what"
}

# --- size and form ------------------------------------------------------------

read -r lines words columns < <(page sizes README.md)
[ "$lines" -le 150 ]; result $? "README.md has at most 150 lines ($lines)"
[ "$words" -le 1200 ]; result $? "README.md has at most 1,200 words ($words)"
[ "$columns" -le 100 ]; result $? "README.md has at most 100 columns ($columns)"
for p in "${pages[@]}"; do
	none "$p: no sentence has more than 25 words" page sentences 25 $p
	none "$p: no line has more than 100 columns" page columns 100 $p
	none "$p: each row of a table has its cells" page tables $p
	none "$p: each link leads somewhere" page links $p
	none "$p: each file, make target and test is there" page names $p
done

sed -n '/^| patch | files /,/^$/p' kernel-patches/README.md | sed '1,2d;$d' | diff - <(kernel-patches/build/series.sh build/config.mk table) >"$tmp/sizes"
result $? "kernel-patches/README.md has each patch's subject and size (make series-export)"
sed 's/^/# /' "$tmp/sizes"

# --- commands -----------------------------------------------------------------

# ran HEADING N COMMAND
ran() {
	grep -q "^page \"$1\" $2\$" tests/tool/readme_test.sh && return
	[ "$2" = 1 ] && grep -q "^page \"$1\"\$" tests/tool/readme_test.sh && [ "$(blocks "$1")" = 1 ] && return
	[ "$3" = "make demo" ] || [ "$3" = "make test" ]
}
blocks() { page blocks README.md | cut -f 2,3 | grep -cFx "sh	$1"; }

found=0
while IFS= read -r heading; do
	for ((i = 1; i <= $(blocks "$heading"); i++)); do
		while IFS=$'\t' read -r _ command; do
			found=$((found + 1))
			ran "$heading" $i "$command" || printf '%s: %s\n' "$heading" "$command" >>"$tmp/not"
		done < <(page commands README.md "$heading" $i)
	done
done < <(page blocks README.md | cut -f 3 | sort -u)
sed 's/^/# no test runs it: /' "$tmp/not" 2>/dev/null
[ ! -e "$tmp/not" ] && [ "$found" = "$(page commands README.md | wc -l)" ] && [ "$found" -gt 20 ]
result $? "each of README.md's $found commands is run by a test"

command=$(page commands README.md "Test it, read on" | cut -f 2-)
[ "$command" = "make test" ] && grep -q "^$command \"\$@\"" .ci/run; result $? "CI runs the command that tests: ${command:-none}"

demo=$(page commands README.md "Try it" | cut -f 2-)
passed=$(passed_file README.md tests/bench/demo tests/bench/migrate_rows.py tests/guest/migrate* build/bpf/converge.bpf.o $KMOD/kvm.ko $KMOD/kvm-amd.ko)
if [ -e "$passed" ]; then
	result 0 "$demo prints what the page shows (as before)"
else
	page block README.md text "Try it" >"$tmp/page"
	eval "timeout 900 $demo" >"$tmp/demo" 2>&1 </dev/null
	status=$?
	python3 - "$tmp/page" "$tmp/demo" <<-'END'
	import re, sys
	def table(path):
	    with open(path) as f:
	        lines = f.read().split("\n")
	    start = next(i for i, l in enumerate(lines) if re.match(r" +no throttle +converge$", l))
	    rows = []
	    for line in lines[start:]:
	        if not line.strip():
	            break
	        # Figures differ from run to run
	        rows.append([re.sub(r"\d[\d.]*", "N", c) for c in re.split(r" {2,}", line.strip())])
	    return rows
	page, demo = map(table, sys.argv[1:])
	with open(sys.argv[2]) as f:
	    slow = "too slow or too busy" in f.read()
	if slow:   # the guest without a throttle arrived too: its column is another one
	    page, demo = ([[*r[:-2], r[-1]] for r in t] for t in (page, demo))
	sys.exit(page != demo)
	END
	[ $? = 0 ] && [ $status = 0 ]
	status=$?
	[ $status = 0 ] || sed 's/^/# /' "$tmp/demo"
	[ $status != 0 ] || : >"$passed"
	result $status "$demo prints what the page shows"
fi

# --- license and version ------------------------------------------------------

gpl=/usr/share/common-licenses/GPL-2
[ ! -e $gpl ] || cmp -s LICENSE $gpl; result $? "LICENSE is version 2 of the GPL"
find bpf user tests kernel-patches .ci Makefile -type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' -o -name '*.mk' \
	-o -name '*.pml' -o -name run -o -name Makefile \) -not -path '*/corpus/*' -not -path '*/__pycache__/*' >"$tmp/sources"
xargs grep -L '^[^ ]* *SPDX-License-Identifier: GPL-2\.0\( \*/\)\?$' <"$tmp/sources" >"$tmp/other"
sed 's/^/# /' "$tmp/other"
[ -s "$tmp/sources" ] && [ ! -s "$tmp/other" ]; result $? "each source says GPL-2.0 ($(wc -l <"$tmp/sources") files)"
grep -h '^+.*SPDX-License-Identifier:' kernel-patches/*.patch | grep -v ': GPL-2.0\(-only\)\?\( \*/\)\?$' >"$tmp/other"
sed 's/^/# /' "$tmp/other"
[ ! -s "$tmp/other" ]; result $? "each file that the series adds says GPL-2.0"

version=$(sed -n 's/^## \([0-9.]*\).*/\1/p' CHANGES | head -n 1)
for f in "$KMOD/kvm.ko"; do [ "$(modinfo -F version "$f")" = "$version" ]; done &&
	[ "$(build/kvmext --version | cut -d ' ' -f 2)" = "$version" ]
result $? "CHANGES begins with the version of modules and tool ($version)"

echo "1..$n"
exit $failed
