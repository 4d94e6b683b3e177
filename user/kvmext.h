/* SPDX-License-Identifier: GPL-2.0 */
/* kvmext, the tool: what its commands share. */
#ifndef __KVMEXT_H
#define __KVMEXT_H

#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <libsmartcols/libsmartcols.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define KVMEXT_VERSION "0.2"
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define __printf(f, a) __attribute__((format(printf, f, a)))

/* Longest text in an op table's .name, without the NUL. */
#define NAME_MAX_LEN 31

typedef __int128 s128;

/**
 * enum code - exit codes, also "code" in JSON errors; they never change
 * @OK: done
 * @E_INTERNAL: the tool or the system failed in a way that has no better code
 * @E_USAGE: the command line makes no sense
 * @E_PRIV: more privilege is needed
 * @E_ENV: the kernel or its set-up lacks something
 * @E_OBJECT: the object file cannot be a policy here
 * @E_PARAM: no such parameter, or a value it does not take
 * @E_VM: no such VM or vCPU
 * @E_CONFLICT: the place or the name is taken
 * @E_POLICY: no such policy
 * @E_REFUSED: the kernel or its verifier said no
 */
enum code {
	OK,
	E_INTERNAL,
	E_USAGE,
	E_PRIV,
	E_ENV,
	E_OBJECT,
	E_PARAM,
	E_VM,
	E_CONFLICT,
	E_POLICY,
	E_REFUSED,
};

/**
 * struct global - the options every command takes
 * @json: one JSON document on stdout, for results and errors alike
 * @quiet: say nothing when all is well
 * @verbose: libbpf's whole log on stderr
 * @bpffs: where bpffs is mounted
 * @debugfs: where debugfs is mounted
 */
struct global {
	bool json;
	bool quiet;
	bool verbose;
	const char *bpffs;
	const char *debugfs;
};

extern struct global g;

/* Keys of options that have no letter. */
enum {
	OPT_BPFFS = 0x100,
	OPT_DEBUGFS,
	OPT_HELP,
	OPT_USAGE,
	OPT_INTERVAL,
	OPT_VCPU,
	OPT_VM,
};

/* --- commands: each parses its own arguments and returns a code --- */

int cmd_dirty(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_get(int argc, char **argv);
int cmd_guest(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_hint(int argc, char **argv);
int cmd_hist(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_load(int argc, char **argv);
int cmd_mark(int argc, char **argv);
int cmd_set(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_steer(int argc, char **argv);
int cmd_switch(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_unload(int argc, char **argv);
int cmd_unmark(int argc, char **argv);
int cmd_version(int argc, char **argv);

/**
 * parse_args - parse a command's arguments, global options included
 * @argc: arguments, the command's name first
 * @argv: likewise
 * @options: the command's own options, or NULL
 * @parser: called for those options and for ARGP_KEY_ARG; ARGP_ERR_UNKNOWN if not its own
 * @args_doc: what follows the options
 * @doc: help
 * @input: handed to @parser as state->input
 *
 * Return: OK or E_USAGE, which is then already reported.
 */
int parse_args(int argc, char **argv, const struct argp_option *options, argp_parser_t parser,
	       const char *args_doc, const char *doc, void *input);

/* --- out.c: errors, JSON, tables --- */

/* out_init - before anything is printed: which characters there are */
void out_init(void);
/* out_utf8 - the user's locale says that the terminal shows UTF-8 */
bool out_utf8(void);
/**
 * fail - report an error; only the first of a process is
 * @code: what kind
 * @hint: what to do next, or NULL
 * @fmt: what was tried and what was found
 *
 * Return: @code, so that a caller can return it on.
 */
int fail(enum code code, const char *hint, const char *fmt, ...) __printf(3, 4);
int fail_usage(const char *cmd, const char *fmt, ...) __printf(2, 3);
/* fail_mute - while on, nothing is reported; returns what it was */
bool fail_mute(bool mute);
/* fail_count - how often this process failed so far */
int fail_count(void);
/* say - a line for people about what was done; silent with --quiet and --json */
void say(const char *fmt, ...) __printf(1, 2);
/* print - like printf, for all that has others' texts in it */
void print(const char *fmt, ...) __printf(1, 2);
/* printable - take out what a terminal would obey, but for the characters in @keep */
void printable(char *s, const char *keep);
/* str - like asprintf, but never fails; the caller frees it, or the exit does */
char *str(const char *fmt, ...) __printf(1, 2);
/* nearest - the one of @n names that @s may have meant, or NULL */
const char *nearest(const char *s, const char *const *names, int n);
/**
 * parse_every - the arguments [INTERVAL [COUNT]]
 * @cmd: the command
 * @n: which one it is, from 0
 * @arg: its text
 * @ns: INTERVAL
 * @count: COUNT
 *
 * Return: 0, or EINVAL, which is then already reported.
 */
error_t parse_every(const char *cmd, int n, const char *arg, uint64_t *ns, unsigned long *count);
/* clock_ns - CLOCK_MONOTONIC */
uint64_t clock_ns(void);
/* duration - nanoseconds for people */
char *duration(uint64_t ns);
#define DURATION_LEN 32
/* duration_in - the same in @buf, which it returns */
const char *duration_in(char *buf, size_t size, uint64_t ns);

/* A JSON document on stdout: key is NULL at the top and in arrays. */
void j_open(const char *key, char bracket);
void j_close(char bracket);
void j_str(const char *key, const char *val);
void j_num(const char *key, s128 val);
void j_bool(const char *key, bool val);
void j_real(const char *key, double val);
/* j_lines - from now on each document is one line */
void j_lines(void);

/**
 * struct col - a column of a table
 * @name: its heading
 * @right: numbers, flush right
 */
struct col {
	const char *name;
	bool right;
};

struct libscols_table *tbl_new(const struct col *cols, int n);
/* tbl_row - add a line; takes @n strings from malloc, NULL shows as "-" */
void tbl_row(struct libscols_table *tbl, int n, ...);
/* tbl_row_of - add a line; copies @n strings */
void tbl_row_of(struct libscols_table *tbl, int n, char *const *cells);
void tbl_print(struct libscols_table *tbl);

/* --- value.c: integers with units --- */

char *value_text(s128 v, bool is_bool);
/**
 * value_parse - read a number as people write it
 * @text: decimal or 0x, with k, M, G, a unit of time, or @unit itself behind it
 * @unit: the unit that the result is in
 * @is_bool: on, off and their like instead
 * @out: result
 *
 * Return: NULL, or what is wrong with it.
 */
const char *value_parse(const char *text, const char *unit, bool is_bool, s128 *out);

/* --- vars.c: parameters and counters from BTF --- */

enum var_kind { VAR_RODATA, VAR_DATA, VAR_BSS, VAR_KINDS };

/**
 * struct var - a parameter or a counter
 * @name: its name
 * @kind: VAR_RODATA set at load, VAR_DATA settable, VAR_BSS counter (or see @param)
 * @param: a parameter; else a counter
 * @type: its type's name
 * @size: in bytes: 1, 2, 4 or 8
 * @off: where in its section
 * @is_signed: it can be negative
 * @is_bool: on or off
 * @min: least value that may be set
 * @max: greatest
 * @unit: "" if none
 * @help: a line for people
 */
struct var {
	char *name;
	enum var_kind kind;
	bool param;
	char *type;
	uint32_t size;
	uint32_t off;
	bool is_signed;
	bool is_bool;
	s128 min;
	s128 max;
	const char *unit;
	const char *help;
};

struct vars {
	struct var *v;
	int n;
};

extern const char *const section_names[VAR_KINDS];
extern const char *const section_pins[VAR_KINDS];

/**
 * vars_from_btf - find the parameters and counters of a policy
 * @btf: of an object file or of a loaded map
 * @sizes: bytes in each section; a variable beyond them is refused
 * @vars: result
 *
 * Return: NULL, or what is wrong with the declarations.
 */
const char *vars_from_btf(const struct btf *btf, const size_t sizes[VAR_KINDS], struct vars *vars);
struct var *vars_find(const struct vars *vars, const char *name);
/* btf_tag - the text behind "kvmext:@key=" among the tags on type @id, or NULL */
const char *btf_tag(const struct btf *btf, int id, const char *key);
s128 var_load(const struct var *var, const void *section);
/* var_store - one aligned store, so that the policy never sees half a value */
void var_store(const struct var *var, void *section, s128 val);
const char *var_when(const struct var *var);

/**
 * struct setting - one NAME=VALUE of the command line, understood
 * @var: of the policy
 * @val: checked
 */
struct setting {
	const struct var *var;
	s128 val;
};

/**
 * settings_parse - understand NAME=VALUE arguments, all of them or none
 * @what: the policy's name, for the error
 * @vars: what it has
 * @args: NAME=VALUE texts
 * @n: how many
 * @running: the policy is loaded, so load-time parameters are refused
 * @out: result, from malloc
 */
int settings_parse(const char *what, const struct vars *vars, char *const *args, int n,
		   bool running, struct setting **out);

/* --- object.c: policy files --- */

/**
 * struct table - an op table that the tool knows
 * @name: as in the kernel's state file
 * @ops: its struct's name
 */
struct table {
	const char *name;
	const char *ops;
};

extern const struct table tables[];
extern const int nr_tables;

/**
 * struct object - a policy file, opened and found good
 * @path: where it is
 * @file: contents, until it is opened
 * @size: of @file
 * @obj: libbpf's view
 * @ops: its table
 * @table: which table that is
 * @ops_type: BTF type of the table in the object
 * @name: the policy's name, from the table
 * @about: its description or NULL
 * @vars: what it offers
 * @sec: initial contents of the sections, NULL if absent
 */
struct object {
	const char *path;
	char *file;
	size_t size;
	struct bpf_object *obj;
	struct bpf_map *ops;
	const struct table *table;
	const struct btf_type *ops_type;
	char name[NAME_MAX_LEN + 1];
	const char *about;
	struct vars vars;
	void *sec[VAR_KINDS];
	struct bpf_map *map[VAR_KINDS];
};

/*
 * object_file - get a file's contents, for object_open() to read
 *
 * Once: who can write to the file, or to its folder, must not be able to show one
 * to the checks and another to libbpf.
 */
int object_file(const char *path, struct object *o);
/* object_open - read a policy file; asks nothing of the kernel and changes nothing */
int object_open(struct object *o);
/* object_read - the same with nothing between us and libbpf, which bad contents may crash */
int object_read(struct object *o);
/* object_prog - the program in the policy's table for its member @m, or NULL */
const struct bpf_program *object_prog(const struct object *o, const struct btf_member *m);
/**
 * object_ready - read a policy file and its NAME=VALUEs, and see that it can be loaded here
 * @path: the file
 * @args: NAME=VALUE texts
 * @n: how many
 * @o: the policy
 * @set: what @args say, for object_set()
 *
 * All that can be refused before anything changes: the file, the values, then privilege,
 * kernel and bpffs.
 *
 * Return: OK or the code of what was reported.
 */
int object_ready(const char *path, char *const *args, int n, struct object *o,
		 struct setting **set);
/* object_set - give parameters other values than their defaults, before object_load() */
void object_set(struct object *o, const struct setting *set, int n);
/* object_load - verify and create it all in the kernel for one VM or all (0); not in force yet */
int object_load(struct object *o, uint32_t vm);
int object_ops_fd(const struct object *o);

/**
 * struct table_ops - where a table's ops are
 * @name: their names
 * @off: where in the value of a struct_ops map
 * @n: how many
 */
struct table_ops {
	const char *name[32];
	uint32_t off[32];
	int n;
};

/* table_ops - ask the kernel's BTF for the ops of a table */
int table_ops(const struct table *t, struct table_ops *ops);

/* Everything libbpf said since the last clear. */
void log_init(void);
void log_clear(void);
const char *log_text(void);

/* --- host.c: what the kernel offers --- */

/* kvm_btf - BTF of the kvm module (or of vmlinux if it is built in), NULL if none; cached */
struct btf *kvm_btf(void);
bool kvm_has_table(const struct table *t);
/* need_kernel - E_ENV with the reason if policies cannot work in this kernel */
int need_kernel(void);
/* need_caps - E_PRIV with the capabilities that this process lacks */
int need_caps(void);
/* need_privilege - these, and the kernel's process ids: E_ENV in a pid namespace */
int need_privilege(void);
/**
 * catch_ends - have a function called for each signal that asks for an end
 * @fn: called without SA_RESTART, so that a wait ends
 *
 * SIGHUP and SIGQUIT stay ignored if they are, as by nohup(1).
 */
void catch_ends(void (*fn)(int sig));
/**
 * lock_one - be the only one of all kvmexts to serve something, until this process ends
 * @what: the command
 * @id: the thing
 * @busy: what to report if another kvmext has it
 *
 * The locks of a command are bytes of one file, so that a kvmext that is killed leaves no file.
 *
 * Return: OK or the code of what was reported.
 */
int lock_one(const char *what, uint64_t id, const char *busy);
/* first_line - of a file, without its end; NULL if it cannot be opened.  To be freed */
char *first_line(const char *path);
/* lockdown - the kernel's levels, the one it is at in brackets; "" if none.  To be freed */
char *lockdown(void);
/* lockdown_bars_reads - no BPF program may read the kernel's memory; policies need not */
bool lockdown_bars_reads(void);
/* drop_rights - be nobody from here on, to read what strangers made */
void drop_rights(void);
int need_bpffs(void);
bool kill_switch_on(void);
uint64_t missing_caps(char *names, size_t size);
/* has_cap - this process has that capability, of <linux/capability.h>, in the first user namespace */
bool has_cap(int cap);
bool is_mount(const char *path, long magic);
/* in_pid_namespace - process ids here are not the kernel's */
bool in_pid_namespace(void);
#define IN_HOST_PIDS "on the host, or in a container with the host's pid namespace (--pid=host)"
/*
 * nr_vms - how many VMs the process has, or -errno: -EACCES if that cannot be seen
 *
 * Where BPF is not to be had, it is how many files of VMs the process has open.
 */
int nr_vms(uint32_t pid);
/* need_vm - E_VM unless the process has a VM open */
int need_vm(uint32_t pid);
/* vm_ended - the process has exited or closed its VMs; false for process 0 */
bool vm_ended(uint32_t pid);
int parse_pid(const char *text, uint32_t *pid);
char *proc_comm(uint32_t pid);

#define BPFFS_MAGIC 0xcafe4a11L
#define DEBUGFS_MAGIC_ 0x64626720L
#define KILL_SWITCH "/sys/module/kvm/parameters/ext_enable"

/* --- exitname.c: names of VM exits --- */

/* KVM_ISA_* of the kernel, as kvm_exit has them; ISA_NONE for KVM_EXIT_*, exits to user space */
enum { ISA_NONE, ISA_VMX, ISA_SVM };
#define EXIT_KEY(isa, reason) ((uint64_t)(isa) << 32 | (uint32_t)(reason))

/**
 * tracefs_open - a descriptor of tracefs, mounted or not
 * @path: where it is, for people
 *
 * Return: a descriptor for openat(), or -errno.
 */
int tracefs_open(const char **path);
/* exit_names_load - read the kernel's tables once; OK, or E_ENV with nothing reported */
int exit_names_load(void);
/* exit_names_where - where the names are from, or why there are none; how many */
const char *exit_names_where(int *n);
/* exit_name - never NULL: "0x7f" if it has no name; good for the next three calls */
const char *exit_name(uint32_t isa, uint32_t reason);
/* exit_reasons - EXIT_KEY()s of a name (any case, both vendors') or a number; how many */
int exit_reasons(const char *name, uint64_t *keys, int max);
const char *exit_name_nearest(const char *name);

/* --- kernel_state.c: the kernel's state file --- */

/**
 * struct rec - a line of the state file
 * @kind: "policy", "vm", "vcpu", ...
 * @key: keys
 * @val: values
 * @n: how many
 */
struct rec {
	char *kind;
	char *key[48];
	char *val[48];
	int n;
};

struct state {
	struct rec *rec;
	int n;
	uint64_t read_ns;
	char *text;
};

/* The version of the state file that this tool reads. */
#define STATE_VERSION 1

/*
 * state_read - read the file; E_ENV if it is missing or of another version than
 * STATE_VERSION, E_PRIV if it may not be read
 */
int state_read(struct state *st);
/* state_version - the version that the file says it has; 0 if there is no file, -errno */
int state_version(void);
void state_free(struct state *st);
const char *rec_str(const struct rec *r, const char *key);
bool rec_num(const struct rec *r, const char *key, uint64_t *val);
uint64_t rec_u64(const struct rec *r, const char *key);
bool rec_is(const struct rec *r, const char *kind);
/* rec_find - the first record of a kind with that key and number, or NULL */
const struct rec *rec_find(const struct state *st, const char *kind, const char *key, uint64_t val);
/* rec_json - all of a record into the open object, with keys in @skip left out */
void rec_json(const struct rec *r, const char *skip);

/* --- policy.c: policies that are loaded --- */

/**
 * struct policy - a loaded policy
 * @instance: NAME, or NAME@PID if it is for one VM; TABLE: comes before it but
 *	for the first table
 * @rec: its line in the state file
 * @link_id: of its link
 * @vm: 0 for every VM
 * @dir: where it is pinned, NULL if the tool did not load it
 * @in_charge: the table pinned there is the one in force
 * @pin_err: errno with which its pins could not be read; then @dir is not known
 */
struct policy {
	char *instance;
	const struct rec *rec;
	uint32_t link_id;
	uint32_t vm;
	char *dir;
	bool in_charge;
	int pin_err;
};

struct policies {
	struct state st;
	struct policy *p;
	int n;
};

/* policies_read - all of them; changes nothing */
int policies_read(struct policies *ps);
int policy_find(const struct policies *ps, const char *name, struct policy **p);
/* policy_pins - OK, or what was reported: whether the tool pinned it cannot be read */
int policy_pins(const struct policy *p);
/* json_pinned - "pinned", null if that cannot be read */
void json_pinned(const struct policy *p);
/*
 * policy_taken - the next record, after @r or the first if that is NULL, of a VM that the
 * kernel took the policy from for an error that only that VM saw; NULL at the end
 */
const struct rec *policy_taken(const struct policies *ps, const struct policy *p,
			       const struct rec *r);
/* json_taken - "taken", an array of these */
void json_taken(const struct policies *ps, const struct policy *p);
/* instance_name - as struct policy has it; for a policy of that table */
char *instance_name(const char *table, const char *name, uint32_t vm);

/**
 * struct inside - the sections of a loaded policy, mapped or copied
 * @vars: what it has
 * @sec: contents
 * @live: that section is the policy's own and can be written; else @sec has a copy
 * @about: its description or NULL
 */
struct inside {
	struct vars vars;
	void *sec[VAR_KINDS];
	bool live[VAR_KINDS];
	const char *about;
};

int policy_inside(const struct policy *p, struct inside *in);
/* policy_map - a descriptor of its map of that name (or section, with its dot), or -1 */
int policy_map(const struct policy *p, const char *name);

/* --- vms.c: VMs and vCPUs as user/top.bpf.c counts them --- */

/* Programs that may be missing, each with the figures that hang on it */
enum vms_hook_id {
	HOOK_INJECT,
	HOOK_WAKEUP,
	HOOK_HALT,
	HOOK_WAKING,
	HOOK_ACCEPT,
	HOOK_DIRTY,
	HOOK_DESTROY,
	HOOK_ASK,
	HOOK_BLOCK,
	HOOK_RUN,
	HOOK_POLICY,
	HOOKS,
};

/* Figures, in the order of struct vm's and struct vcpu's arrays */
enum vms_figure {
	F_EXITS,
	F_GUEST_NS,
	F_OUTSIDE_NS,
	F_HALTED_NS,
	F_READY_NS,
	F_BLOCKED_NS,
	F_DIRTY,
	F_INJECTED,
	F_POSTED,
	F_INJ_N,
	F_INJ_NS,
	F_WAKE_N,
	F_WAKE_NS,
	F_ASKS,
	F_BLOCKS,
	FIGURES,
};

/**
 * struct reason - exits for one reason
 * @isa: whose number @reason is
 * @reason: as kvm_exit has it; with @other, any that has no number of its own here
 * @other: see there
 * @n: exits
 * @ns: from exit to entry
 */
struct reason {
	uint32_t isa;
	uint32_t reason;
	bool other;
	uint64_t n;
	uint64_t ns;
};

#define REASONS_SHOWN 8

/**
 * struct vcpu - a vCPU over the last interval
 * @vm: place of its VM in struct vms
 * @tgid: its VMM
 * @id: its id
 * @tid: the thread that ran it last
 * @total: since it was met
 * @delta: in the last interval
 * @reason: the reasons of the interval, those that took longest first
 * @reasons: how many of these
 * @priv: what vms.c keeps
 */
struct vcpu {
	int vm;
	uint32_t tgid;
	uint32_t id;
	uint32_t tid;
	uint64_t total[FIGURES];
	uint64_t delta[FIGURES];
	struct reason reason[REASONS_SHOWN];
	int reasons;
	struct vcpu_priv *priv;
};

/**
 * struct vm - a VM over the last interval: the sums of its vCPUs
 * @tgid: its VMM
 * @kvm: tells the VMs of one process apart
 * @comm: the VMM's name, or NULL
 * @inhibits: why interrupts do not take the short way, see apicv_text()
 * @first: its vCPUs in struct vms
 * @n: how many
 */
struct vm {
	uint32_t tgid;
	uint64_t kvm;
	char comm[17];
	uint64_t inhibits;
	int first;
	int n;
	uint64_t total[FIGURES];
	uint64_t delta[FIGURES];
	struct reason reason[REASONS_SHOWN];
	int reasons;
};

/**
 * struct vms - all of them at one moment
 * @vm: sorted by process id
 * @vcpu: in the order of their VMs, and by id
 * @at_ns: CLOCK_MONOTONIC
 * @took_ns: length of the interval
 * @lost: exits of vCPUs for which there was no room
 * @silent: this KVM does not tell its exits; these are those to user space
 * @policy_changes: grows when a policy comes, goes or is taken from a VM (HOOK_POLICY)
 */
struct vms {
	struct vm *vm;
	int nr_vms;
	struct vcpu *vcpu;
	int nr_vcpus;
	uint64_t at_ns;
	uint64_t took_ns;
	uint64_t lost;
	bool silent;
	uint32_t policy_changes;
};

/* vms_open - attach the programs; OK or the code of what was reported */
int vms_open(void);
void vms_close(void);
/* vms_read - look again; what it returns is good until the next call */
const struct vms *vms_read(void);
/* vms_hook - which hook serves, or NULL if this kernel has none */
const char *vms_hook(enum vms_hook_id h);
/* vms_has - can this figure be had here? */
bool vms_has(enum vms_figure f);

/* --- look.c: what KVM has decided about VMs, without tracing them --- */

struct look_vm;

/**
 * vms_look - call @fn once for each VM that a process has open
 * @pid: of this process only, or 0
 * @fn: ends it by returning non-zero
 * @arg: for @fn
 *
 * Return: 0, what @fn returned, or -errno: it cannot be had on this kernel, or here.
 */
int vms_look(uint32_t pid, int (*fn)(const struct look_vm *vm, void *arg), void *arg);
/**
 * apicv_text - why APICv or AVIC is not used, for people
 * @inhibits: bits of the kernel's enum kvm_apicv_inhibit
 *
 * Return: the kernel's own names in small letters, "" for none (it is used), NULL if
 * that is not known; good for the next call.
 */
const char *apicv_text(uint64_t inhibits);

/* --- pin.c: what outlives the tool --- */

/*
 * A policy is DIR/kvmext/INSTANCE/{link,ops,data,rodata,bss}.  While it is put
 * together it is DIR/kvmext/~INSTANCE; the rename makes it whole at once.
 * Everyone who changes anything holds a lock on DIR/kvmext, so a "~" folder
 * seen under the lock was left by a tool that was killed.
 */

/* pins_lock - lock the folder until we exit, and finish what killed tools left */
int pins_lock(void);
/* pins_check - for who only reads: the folder is there and can be trusted, or is not there */
int pins_check(void);
/* pins_wrong - why the folder must not be used, or NULL */
char *pins_wrong(void);
#define PINS_MEND "remove it, and mount bpffs with mode=0700"
char *pins_dir(const char *instance);
char *pins_new_dir(const char *instance);
bool pins_exists(const char *instance);
/* pins_new - make the "~" folder with everything but the link in it */
int pins_new(const struct object *o, const char *instance);
int pins_new_link(const char *instance, int link_fd);
void pins_drop_new(const char *instance);
/* pins_commit - the "~" folder becomes the instance; an old one of that name goes */
int pins_commit(const char *instance);
int pins_remove(const char *dir);
/*
 * pins_each - call @fn for each folder until it returns non-zero, which is the result;
 * -errno if they cannot be listed
 */
int pins_each(int (*fn)(const char *dir, const char *instance, void *arg), void *arg);
/* pins_get_link - a descriptor of the pinned link, or -errno: -ENOENT only if there is none */
int pins_get_link(const char *dir, struct bpf_link_info *info);

/**
 * struct pinned - what a folder of pins says
 * @link_id: of its link
 * @attached: the link has a table, whichever
 * @in_charge: it has the one that is pinned beside it
 */
struct pinned {
	uint32_t link_id;
	bool attached;
	bool in_charge;
};

/*
 * pins_look - 0, or -errno: -ENOENT if there is no link; with any other nothing is
 * known, and it is not to be taken for gone
 */
int pins_look(const char *dir, struct pinned *p);

/* link_error - report why a link was not made or not updated */
int link_error(const struct object *o, const char *doing, uint32_t vm, int err);

#endif /* __KVMEXT_H */
