# SPDX-License-Identifier: GPL-2.0
#
# kvm_ext: sched_ext for KVM.  `make help` lists the targets.
#
# New sources are found by name: user/*.c, user/*.bpf.c, bpf/*.bpf.c,
# tests/{kvm,tool,guest,bench,chaos}/*.c, tests/kvm/probes/*.bpf.c and tests/tool/bad/*.bpf.c
# need no line here.

# The configuration for an installed kernel (KREL=...) or for the debug kernel
# (KERNEL=debug) does not disturb the pinned one.
CONFIG := build/config$(KREL:%=-%)$(KERNEL:%=-%).mk

ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-print-directory --no-builtin-rules
.SECONDARY:
.DELETE_ON_ERROR:

ifeq ($(V),1)
Q :=
say :=
else
Q := @
say = @printf '  %-7s %s\n'
endif

all: modules policies tools

# Kernel release, source, libbpf and bpftool come from $(CONFIG), which setup.sh keeps
# right; make starts over when it changed.  What only tests need, QEMU first of all, is
# got by tests/machine/fetch.sh: who installs needs none of it.
no-config := clean help deps test-deps update test-trixie uninstall modules_uninstall plots
ifneq ($(filter-out $(no-config),$(or $(MAKECMDGOALS),all)),)
include $(CONFIG)
endif
$(CONFIG): FORCE
	@KREL='$(if $(filter command% environment%,$(origin KREL)),$(KREL))' KERNEL='$(KERNEL)' \
		kernel-patches/build/setup.sh $@ || $(if $(filter test test-long,$(MAKECMDGOALS)),$(no_count),exit)

# --- KVM modules ------------------------------------------------------------

modnames := kvm kvm-amd kvm-intel
# A time stamp of our own asks kbuild for BTF in an order that is the same every time,
# which vmlinux.h is compared by.
export KBUILD_BUILD_TIMESTAMP := kvm_ext
# The modules fit one vmlinux, so their BTF needs no base of its own.  With one, which
# pahole 1.26 and later make here by default, the kernel renumbers the types at load and
# the tables of ids in KVM keep the old numbers.
KBTF := MODULE_PAHOLE_FLAGS=
# gcc-12 by another name is the same compiler.
export DEBIAN_KERNEL_NO_CC_VERSION_CHECK := y
modules := $(modnames:%=$(KMOD)/%.ko)
patches := $(sort $(wildcard kernel-patches/*.patch))

modules: $(modules)

# One build makes all three; the unstripped ones stay in the tree.  Who had to wait for
# the lock may find it all done by the one before.
$(modules) &: $(patches) kernel-patches kernel-patches/build/tree.sh $(CONFIG)
	@mkdir -p $(KMOD)
	$(Q)exec 9>$(KTREE).lock && flock 9 && \
	for d in $^; do [ $(KMOD)/kvm.ko -nt $$d ] || break; done && \
	if [ $(KMOD)/kvm.ko -nt $$d ]; then exit; fi && \
	printf '  %-7s %s\n' PATCH "$(words $(patches)) patches on linux $(KREL)" && \
	kernel-patches/build/tree.sh $(CONFIG) $(KTREE) && \
	{ $(MAKE) -C $(KTREE) M=arch/x86/kvm $(KBTF) modules 2>&1 | sed -u '/^make\[/d'; \
	  [ $${PIPESTATUS[0]} = 0 ]; } && \
	for m in $(modnames); do \
		objcopy --strip-debug $(KTREE)/arch/x86/kvm/$$m.ko $(KMOD)/.$$m.ko || exit 1; \
	done && \
	for m in $(modnames); do mv $(KMOD)/.$$m.ko $(KMOD)/$$m.ko || exit 1; done
	$(Q)kernel-patches/build/check-vermagic.sh $(KREL) $(modules)
	$(say) MODULES "$(KMOD)/{kvm,kvm-amd,kvm-intel}.ko for $(KREL)"

# --- the test machines ------------------------------------------------------

# Debian's packages for the tests, its QEMU, and build/machine.mk, which says where all is.
machine: $(CONFIG)
	@tests/machine/fetch.sh

# QEMU with tests/machine/qemu.patch, built once into the cache.
machine-amd: machine
	@tests/machine/fetch.sh emulator

# kvm-intel.ko as Bochs wants it.  In a copy of the tree, with its objects, so that the
# few that the patch changes are all that is compiled; the copy's kvm.ko is the same.
bochs_patch := tests/machine/bochs.patch

test_modules := $(addprefix build/tests/kvm/modules/,posted.ko softfpu.ko)

machine-intel: $(KMOD)-bochs/kvm-intel.ko $(test_modules) bochs

bochs: machine
	@tests/machine/fetch.sh bochs

$(KMOD)-bochs/kvm-intel.ko: $(KMOD)/kvm-intel.ko $(bochs_patch)
	$(say) KMOD $@
	@mkdir -p $(@D)
	$(Q)exec 9>$(KTREE).lock && flock 9 && \
	rsync -a --delete $(KTREE)/ $(KTREE)-bochs/ && \
	patch -d $(KTREE)-bochs -p1 --fuzz=0 --no-backup-if-mismatch -s <$(bochs_patch) && \
	{ $(MAKE) -C $(KTREE)-bochs M=arch/x86/kvm $(KBTF) modules 2>&1 | sed -u '/^make\[/d'; \
	  [ $${PIPESTATUS[0]} = 0 ]; } && \
	objcopy --strip-debug $(KTREE)-bochs/arch/x86/kvm/kvm-intel.ko $@

# Devices whose interrupts are posted; softirqs that use the FPU. They take no type of
# the series.
$(test_modules) &: $(wildcard tests/kvm/modules/*) $(KMOD)/kvm.ko
	$(say) KMOD "$(test_modules)"
	@mkdir -p $(@D)
	$(Q)cp tests/kvm/modules/* $(@D)/
	$(Q)exec 9>$(KTREE).lock && flock 9 && \
	{ $(MAKE) -C $(KTREE) M=$(abspath $(@D)) modules 2>&1 | sed -u '/^make\[/d'; \
	  [ $${PIPESTATUS[0]} = 0 ]; }

# --- vmlinux.h --------------------------------------------------------------

# KVM's types and the base kernel's, as C, for policies and tracers.  It is kept
# in git; its first line names the kernel it was made for.
build/vmlinux.h: $(KMOD)/kvm.ko
	$(say) GEN $@
	$(Q)exec 9>$(KTREE).lock && flock 9; { echo "/* Types of linux $(KVER) with kvm_ext; made by make vmlinux.h-update */"; \
	$(BPFTOOL) btf dump file $< -B $(KTREE)/vmlinux format c; } > $@

vmlinux.h-update: build/vmlinux.h
	$(say) UPDATE vmlinux.h
	$(Q)cp $< vmlinux.h

# Until the header is in git, the generated one stands in for it.
VMLINUX_H := $(or $(wildcard vmlinux.h),build/vmlinux.h)

# --- policies ---------------------------------------------------------------

BPF_CFLAGS := -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror \
	-I. -Ibpf -isystem $(dir $(VMLINUX_H)) -isystem $(LIBBPF_INC)
bpf_src := $(wildcard bpf/*.bpf.c)
test_bpf_src := $(wildcard tests/kvm/probes/*.bpf.c tests/tool/bad/*.bpf.c)
policies := $(bpf_src:%.c=build/%.o)
test_policies := $(test_bpf_src:%.c=build/%.o)

policies: $(policies)

build/%.bpf.o: %.bpf.c $(VMLINUX_H) $(CONFIG)
	$(say) CLANG $@
	@mkdir -p $(@D)
	$(Q)clang $(BPF_CFLAGS) -MMD -MP -MT $@ -MF $(@:.o=.d) -c $< -o $@

build/%.skel.h: build/%.bpf.o
	$(say) SKEL $@
	$(Q)$(BPFTOOL) gen skeleton $< > $@

# --- the tool ---------------------------------------------------------------

CFLAGS ?= -O2 -g
USER_CFLAGS := $(CFLAGS) -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror \
	-I. -Ibuild -isystem $(LIBBPF_INC)
USER_LIBS := -lsmartcols -lncursesw -ltinfo -lelf -lz -lm
GUEST_LIBS := -lelf -lz
# The BPF of the tool itself lies beside the C that loads it.
tool_bpf := $(wildcard user/*.bpf.c)
user_src := $(filter-out $(tool_bpf),$(wildcard user/*.c))
user_obj := $(user_src:%.c=build/%.o)

tools: build/kvmext build/kvmext-guest

build/kvmext: build/user/main.o build/user/kvmext.a $(LIBBPF_A)
	$(say) LD $@
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(USER_LIBS)

# The agent is for guests: of the tool it takes what it needs, and no library for screens.
build/kvmext-guest: build/user/kvmext-guest.o build/user/kvmext.a $(LIBBPF_A)
	$(say) LD $@
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(GUEST_LIBS)

# All but the two main().
build/user/kvmext.a: $(filter-out build/user/main.o build/user/kvmext-guest.o,$(user_obj))
	$(Q)rm -f $@; ar rcs $@ $^

# Not yet in a .d file when they are needed first.
skels := $(tool_bpf:%.bpf.c=build/%.skel.h)
$(user_obj): | $(skels)

# For these alone: build/user/%.o would take the BPF objects, too.
$(user_obj): build/%.o: %.c $(CONFIG)
	$(say) CC $@
	@mkdir -p $(@D)
	$(Q)$(CC) $(USER_CFLAGS) -MMD -MP -c $< -o $@

# --- tests ------------------------------------------------------------------

# Guests take interrupts on the stack they use.
TEST_CFLAGS := $(CFLAGS) -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -mno-red-zone \
	-I. -Itests/lib -Ibuild -isystem $(LIBBPF_INC) -isystem $(KSRC)/tools/testing/selftests
# Tests, and programs that tests use.
test_progs := $(patsubst %.c,build/%,$(wildcard $(foreach d,kvm tool guest bench chaos,tests/$(d)/*.c)))
# The first process of a guest has no libraries.
$(filter %_init,$(test_progs)): TEST_CFLAGS += -static
# It looks into the maps of top.
build/tests/tool/vmcrowd: build/user/top.skel.h
build/tests/tool/mapcrowd: build/user/dirty.skel.h

# All that tests/run and tests/machine/run take, but for the Intel machine.
tests-build: all $(test_progs) $(test_policies) build/tests/tutorial/made machine-amd

# The steps of the tutorial, from its page.
build/tests/tutorial/made: bpf/README.md tests/tool/tutorial_test.py $(wildcard bpf/*.bpf.h) $(VMLINUX_H) $(CONFIG)
	$(say) CLANG "build/tests/tutorial/*/*.bpf.o"
	$(Q)rm -rf $(@D) && tests/tool/tutorial_test.py --extract $(@D)
	$(Q)for c in $(@D)/*/*.bpf.c; do clang $(BPF_CFLAGS) -c $$c -o $${c%.c}.o || exit 1; done
	$(Q)touch $@

build/tests/%: tests/%.c $(LIBBPF_A) $(CONFIG)
	$(say) CC $@
	@mkdir -p $(@D)
	$(Q)$(CC) $(TEST_CFLAGS) -MMD -MP -MT $@ -MF $@.d $< -o $@ $(LIBBPF_A) -lelf -lz -lpthread

-include $(wildcard build/bpf/*.d build/user/*.d build/tests/*/*.d build/tests/*/*/*.d)

# `make test TESTS='a b'` runs only those; names as in tests/README.md.
# KVMEXT_HOST=native: on this machine, whose kernel runs the series' modules.
# MACHINE=amd, MACHINE=intel: on that machine alone.
# QUICK=1: what tests/run names in QUICK, on the AMD machine.
MACHINE := $(if $(filter command%,$(origin MACHINE)),$(MACHINE),$(if $(QUICK)$(filter native,$(KVMEXT_HOST)),amd,all))
test_needs := tests-build $(if $(QUICK),,$(if $(filter-out intel,$(MACHINE)),selftests)) \
	$(if $(filter intel all,$(MACHINE)),machine-intel)
no_count := { echo "0 passed, 1 failed, 0 skipped"; exit 1; }

# A build that fails is counted too.
test:
	+$(Q)rm -f build/tests/count; $(MAKE) $(test_needs) || $(no_count)
ifeq ($(KVMEXT_HOST),native)
	+$(Q)$(MAKE) KREL=$$(uname -r) modules || $(no_count)
endif
	$(Q)KVMEXT_HOST=$(KVMEXT_HOST) tests/run --machine $(MACHINE) $(if $(QUICK),--quick) $(TESTS)

# What takes an hour and more: SECONDS each for what goes on as long as one likes.
test-long: SECONDS := $(if $(filter command%,$(origin SECONDS)),$(SECONDS),3600)
test-long:
	+$(Q)$(MAKE) tests-build selftests || $(no_count)
	$(Q)tests/run --long $(SECONDS) $(TESTS)

# KVM's own, built once into the cache.
selftests: machine
	@tests/machine/fetch.sh selftests

test-kvm: tests-build selftests
	$(Q)tests/kvm-selftests/compare.py

# The same in the debug kernel, which finds what went well by luck.
test-debug: tests-build selftests
	$(Q)$(MAKE) KERNEL=debug debug-modules
	$(Q)tests/run --kernel debug $(TESTS)

# The series' modules for the debug kernel, and one that provokes splats.
debug-modules: modules build/tests/debug/splat.ko

build/tests/debug/splat.ko: tests/debug/splat.c tests/debug/Kbuild $(KMOD)/kvm.ko
	$(say) KMOD $@
	@mkdir -p $(@D)
	$(Q)cp tests/debug/splat.c tests/debug/Kbuild $(@D)/
	$(Q)exec 9>$(KTREE).lock && flock 9 && \
	{ $(MAKE) -C $(KTREE) M=$(abspath $(@D)) modules 2>&1 | sed -u '/^make\[/d'; \
	  [ $${PIPESTATUS[0]} = 0 ]; }

# An hour by hand: make test-chaos SECONDS=3600 SEED=n QEMU_GUEST=1
test-chaos: SECONDS := $(if $(filter command%,$(origin SECONDS)),$(SECONDS),60)
test-chaos: tests-build
	$(Q)tests/machine/run --timeout $$(($(SECONDS) + 900)) --dmesg build/tests/dmesg.chaos \
		--append 'printk.devkmsg=on log_buf_len=4M' -- \
		tests/chaos/chaos.py --seconds $(SECONDS) $(SEED:%=--seed %) $(if $(QEMU_GUEST),--qemu)

demo: tests-build
	$(Q)tests/bench/demo

bench-migrate: tests-build
	$(Q)tests/bench/migrate_bench.py --runs $(or $(RUNS),1)

bench-exits: tests-build machine-intel
	$(Q)tests/bench/exits.py
	$(Q)tests/bench/exits.py --machine intel
	$(Q)tests/bench/exits.py --machine bochs-amd

bench-trace: tests-build
	@tests/machine/fetch.sh deps linux-perf bpfcc-tools
	$(Q)tests/bench/trace.py $(PAIRS:%=--pairs %)

bench-irq: tests-build machine-intel
	$(Q)tests/bench/irq.py
	$(Q)tests/bench/steer.py

bench-free: tests-build
	$(Q)tests/bench/free_bench.py

# The PNGs in tests/bench/results/, from the JSON there; needs gnuplot and nothing built.
plots:
	$(Q)tests/bench/plot.py

# RUNS migrations of a guest whose memory is in a storm; two are in make test.
test-free: tests-build
	$(Q)tests/machine/run --mem 2500M --timeout $$(($(or $(RUNS),100) * 120 + 600)) -- \
		tests/guest/free_test.py --runs $(or $(RUNS),100)

# Debian 13, by a folder of its own (root); TESTS as above.
test-trixie:
	$(Q)tests/machine/trixie $(TESTS)

shell: tests-build
	$(Q)tests/machine/run --shell

include tests/fuzz/build.mk

# --- install ----------------------------------------------------------------

PREFIX ?= /usr/local
man_pages := $(wildcard user/*.[1-9])
# All that install puts below PREFIX, and uninstall takes away.
installed := sbin/kvmext sbin/kvmext-guest \
	$(foreach m,$(man_pages),share/man/man$(subst .,,$(suffix $(m)))/$(notdir $(m))) \
	$(policies:build/bpf/%=share/kvmext/%)

install: tools policies
	$(say) INSTALL $(DESTDIR)$(PREFIX)
	$(Q)install -D -t $(DESTDIR)$(PREFIX)/sbin build/kvmext build/kvmext-guest
	$(Q)for m in $(man_pages); do \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${m##*.} $$m || exit 1; done
	$(Q)install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/kvmext $(policies)

# Folders that others may use stay, empty or not.
uninstall:
	$(say) REMOVE $(DESTDIR)$(PREFIX)
	$(Q)rm -f $(installed:%=$(DESTDIR)$(PREFIX)/%)
	$(Q)d=$(DESTDIR)$(PREFIX)/share/kvmext; [ ! -d $$d ] || rmdir $$d 2>/dev/null || \
		echo "kvm_ext: $$d stays: it has files that this version did not install" >&2

# depmod has "updates" go before the kernel's own modules.
modules_dir = $(DESTDIR)/lib/modules/$(KREL)
depmod = /sbin/depmod $(if $(DESTDIR),-b $(DESTDIR)) $(KREL)

modules_install: modules
	$(Q)[ -d $(modules_dir) ] || { \
		echo "kvm_ext: $(modules_dir) is missing: no kernel $(KREL) is installed there; give KREL=RELEASE of one that is" >&2; exit 1; }
	$(say) INSTALL $(modules_dir)/updates
	$(Q)install -D -m 644 -t $(modules_dir)/updates $(modules)
	$(Q)$(depmod)

# The kernel's own modules are loaded again from the next boot or modprobe on.
modules_uninstall:
	$(Q)[ "$(KREL)" ] && [ -d $(modules_dir) ] || { \
		echo "kvm_ext: no kernel '$(KREL)' is installed in $(DESTDIR)/lib/modules; give KREL=RELEASE of one that is" >&2; exit 1; }
	$(say) REMOVE "$(modules_dir)/updates/{kvm,kvm-amd,kvm-intel}.ko"
	$(Q)rm -f $(modnames:%=$(modules_dir)/updates/%.ko)
	$(Q)[ ! -d $(modules_dir)/updates ] || rmdir --ignore-fail-on-non-empty $(modules_dir)/updates
	$(Q)$(depmod)

# --- the rest ---------------------------------------------------------------

deps:
	@kernel-patches/build/setup.sh deps

test-deps: deps
	@tests/machine/fetch.sh deps

update:
	@kernel-patches/build/setup.sh update
	@tests/machine/fetch.sh update

# The series as commits of a git tree, build/series, and back.
series-edit: $(CONFIG)
	$(Q)kernel-patches/build/series.sh $(CONFIG) edit

series-export: $(CONFIG)
	$(Q)kernel-patches/build/series.sh $(CONFIG) export

# Ops and kfuncs in bpf/README.md, from the kernel-doc of the series.
reference: modules
	$(Q)kernel-patches/build/reference.py $(KTREE) --update

# The page of the series' last patch, and no warning about the kernel-doc of the series.
docs: $(CONFIG)
	$(Q)exec 9>$(KTREE).lock && flock 9 && kernel-patches/build/tree.sh $(CONFIG) $(KTREE)
	$(Q)kernel-patches/build/docs.sh $(CONFIG) $(KTREE)

clean:
	$(say) CLEAN build
	$(Q)rm -rf build

help:
	@echo 'make                     build modules, policies and tool'
	@echo 'make tests-build         the same, the tests, and the emulated AMD host'
	@echo 'make demo                live-migrate a guest with and without a policy'
	@echo 'make test                every test, on both emulated hosts, ending "N passed, N failed, N skipped"'
	@echo "make test TESTS='a b'    only these"
	@echo 'make test MACHINE=amd    on the emulated AMD host alone, and on this machine (MACHINE=intel: only there)'
	@echo 'make test QUICK=1        a first answer in under 6 minutes: one test of each part, on the AMD host'
	@echo 'make test-long           an hour each (SECONDS=N) of chaos, fuzz, interrupts and free pages;'
	@echo "                         test-debug; test-kvm.  TESTS='chaos fuzz irq free debug kvm kernels docs clean-install trixie': only these"
	@echo 'make test KVMEXT_HOST=native   on this machine, if its kernel runs the modules (root)'
	@echo 'make fuzz                fuzz what the tool reads, each target 600 s or SECONDS=N'
	@echo "make test-kvm            KVM's own selftests, all of them, on stock and patched modules"
	@echo "make test-debug          the AMD host's tests in a kernel with lockdep, KASAN and more; sparse, W=1"
	@echo 'make test-chaos          random actions on running guests, 60 s or SECONDS=N, SEED=N, QEMU_GUEST=1'
	@echo 'make bench-migrate       measure every way to throttle; RUNS=N repeats'
	@echo 'make bench-exits         count the instructions that an exit costs, stock and patched'
	@echo 'make bench-trace         what top, trace and hist add to an exit, beside perf and kvm_stat'
	@echo 'make bench-irq           what routing interrupts by policy costs and brings'
	@echo 'make bench-free          migrate a guest whose free pages are not sent, beside virtio hinting'
	@echo 'make plots               draw the plots of tests/bench/README.md from its raw results (gnuplot)'
	@echo 'make test-free           100 migrations of a guest that takes, frees and writes memory; RUNS=N'
	@echo 'make docs                the page of the series in Documentation/, as HTML'
	@echo 'make reference           ops and kfuncs in bpf/README.md, from the headers of the series'
	@echo 'make modules             kvm.ko, kvm-amd.ko, kvm-intel.ko in build/kmod'
	@echo 'make KREL=X modules      the same for the installed kernel X, in build/kmod-X'
	@echo 'make install             kvmext, kvmext-guest, man pages and policies to PREFIX (/usr/local)'
	@echo 'make KREL=X modules_install   the modules for installed kernel X, before its own'
	@echo 'make uninstall; make KREL=X modules_uninstall   take them away again'
	@echo 'make test-trixie         build and test on Debian 13, in a folder that mmdebstrap makes (root)'
	@echo 'make shell               a shell in the emulated AMD host, modules loaded'
	@echo 'make machine-amd         the QEMU that tests/machine/run takes, with its repairs'
	@echo 'make machine-intel       what tests/machine/run --machine intel takes: Bochs, a kvm-intel.ko for it'
	@echo 'make deps                install what the build needs (root), or say what is missing'
	@echo 'make test-deps           the same for the tests'
	@echo 'make update              pin the newest Debian kernel and QEMU again'
	@echo 'make series-edit         build/series, a git tree with the series as commits; see kernel-patches/build/series.sh'
	@echo 'make series-export       its commits back to kernel-patches/'
	@echo 'make vmlinux.h-update    write vmlinux.h anew after a change of the series'
	@echo 'make clean               remove build/ (downloads stay in ~/.cache/kvm_ext)'
	@echo
	@echo 'V=1 shows the commands.  Quick checks of one test: tests/machine/run --help'

SHELL := /bin/bash
FORCE:
.PHONY: all docs reference machine machine-amd test-trixie series-edit series-export machine-intel bochs modules modules_install modules_uninstall install uninstall policies tools tests-build test test-long test-debug debug-modules test-chaos selftests test-kvm demo bench-migrate bench-exits shell deps test-deps update clean help vmlinux.h-update bench-trace bench-irq bench-free plots test-free FORCE
