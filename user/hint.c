// SPDX-License-Identifier: GPL-2.0
/*
 * kvmext hint: on the host, tells the policy skip_free where a guest keeps its bitmap of free pages,
 * and for how long that is to be believed.
 *
 * The guest is not believed more than it must be: what it says is only where to read in its own
 * memory, so that one that lies loses its own pages.
 */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "event.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "out.h"
#include "policy.h"
#include "text.h"
#include "tracer.h"
#include "vmm.h"

#include "bpf/free.h"

#define POLICY "skip_free"
#define BEATS 16
#define ASK_NS 1000000000ull
/* So long without a harvest, and the next one is that of another migration. */
#define QUIET_NS 10000000000ull
#define SHOW_NS 2000000000ull
/* A first pass may take long without one: so long a migration is taken to go on. */
#define MOVING_NS 60000000000ull
#define BEAT_NS (FREE_BEAT_MS * 1000000ull)
#define LEASE_NS (FREE_LEASE_MS * 1000000ull)
/* Of a physical address */
#define GFN_BITS 40
/*
 * How much of the guest's words is read: an area of 2 TiB takes some 300 KiB, a beat 30 bytes.
 * Who says more waits, as the socket is full then.
 */
#define LINE_LEN 256
#define READ_BURST (1 << 20)
#define READ_PER_S (64 << 10)
#define READ_TURN (64 << 10)
/* And how many lines a guest can have us write */
#define TELL_BURST 16
#define TELL_PER_S 2

enum { OPT_SOCKET = 0x300, OPT_ZERO };

struct hint_args {
	struct tracer tracer;
	const char *port;
	int64_t zero;
};

enum hint_state { S_ASKED, S_TRUSTED, S_SILENT, S_REFUSED, S_GONE };

static const char *const state_names[] = {
	[S_ASKED] = "asked",	 [S_TRUSTED] = "trusted", [S_SILENT] = "silent",
	[S_REFUSED] = "refused", [S_GONE] = "gone",
};

/**
 * struct bucket - so much at once, and so much a second
 * @left: what may be taken now
 * @ns: when it was filled last
 */
struct bucket {
	double left;
	uint64_t ns;
};

static double bucket_fill(struct bucket *b, double burst, double per_s)
{
	uint64_t now = clock_ns();

	b->left = b->ns ? b->left + (now - b->ns) / 1e9 * per_s : burst;
	if (b->left > burst)
		b->left = burst;
	b->ns = now;
	return b->left;
}

struct hint {
	const struct hint_args *a;
	int sock;
	int areas_fd;
	uint32_t link_id, ops_id;
	struct free_lease *lease;
	enum hint_state state;
	/* What came, up to a line's end; the rest of a line that is too long is passed over */
	char in[LINE_LEN];
	size_t len;
	bool too_long;
	struct bucket reads, tells;
	/* The state is known to people; else why it is so, and how often it was something else */
	bool told;
	char why[160];
	uint64_t untold;
	/* The area, and one that is being told */
	uint64_t cookie, pfns;
	uint64_t new_cookie, new_pfns;
	uint32_t new_pages, got;
	uint64_t *gfns;
	/* beats that may still be answered */
	uint64_t beat, sent_ns[BEATS];
	uint64_t next_beat, next_ask, asked_ns, next_show;
	uint64_t logs, logs_ns, shown_logs;
	uint64_t moving_until;
	bool zero_sent;
	/* A guest that tells what nobody asked is not to keep us busy: one answer for each. */
	bool asking, zeroing, scanning;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct hint_args *a = state->input;
	char *end;

	switch (key) {
	case OPT_SOCKET:
		if (!*arg || strlen(arg) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			return fail_usage("hint", "'%s' is no path of a socket", arg), EINVAL;
		a->port = arg;
		return 0;
	case OPT_ZERO:
		errno = 0;
		a->zero = strtol(arg, &end, 10);
		if (*end || end == arg || errno || a->zero < 0 || a->zero > 1 << 30)
			return fail_usage("hint", "'%s' is no number of MiB", arg), EINVAL;
		return 0;
	case ARGP_KEY_ARG:
		return fail_usage("hint", "'%s' is not expected", arg), EINVAL;
	case ARGP_KEY_END:
		if (!a->tracer.filter.vm)
			return fail_usage("hint", "--vm PID is needed"), EINVAL;
		if (!a->port)
			return fail_usage("hint", "--port SOCKET is needed"), EINVAL;
		return 0;
	}
	return tracer_option(&a->tracer, key, arg);
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "the VM, by its VMM's process id", 0 },
	{ "port", OPT_SOCKET, "SOCKET", 0, "the host's end of the guest's port " FREE_PORT, 0 },
	{ "zero", OPT_ZERO, "MIB", 0,
	  "have the guest zero its free memory but that much, and hold it till it is sent", 0 },
	{ "for", OPT_FOR, "SEC", 0, "end after so many seconds; else with Ctrl-C", 0 },
	{}
};

/* --- what people see ------------------------------------------------------------------------- */

/* What the policy has counted of this VM */
static uint64_t counter(const __u64 *n)
{
	return __atomic_load_n(n, __ATOMIC_RELAXED);
}

static void show(struct hint *h, const char *event, const char *reason, int64_t pages)
{
	if (g.json) {
		j_open(NULL, '{');
		j_str("event", event);
		j_num("vm", h->a->tracer.filter.vm);
		j_str("state", state_names[h->state]);
		j_real("seconds", tracer_seconds(&h->a->tracer));
		j_num("frames", h->pfns);
		j_num("skipped", counter(&h->lease->skipped));
		j_num("sent", counter(&h->lease->sent));
		if (pages >= 0)
			j_num("pages", pages);
		if (reason)
			j_str("reason", reason);
		if (h->untold)
			j_num("not_shown", h->untold);
		j_close('}');
	}
	fflush(stdout);
}

/* Tell the state to people, unless it changes more often than anybody wants to read. */
static void tell_state(struct hint *h)
{
	if (h->told || bucket_fill(&h->tells, TELL_BURST, TELL_PER_S) < 1)
		return;
	h->tells.left--;
	h->told = true;
	if (h->untold)
		say("%s; it changed %" PRIu64 " times more than is shown", h->why, h->untold);
	else
		say("%s", h->why);
	show(h, "state", h->state == S_TRUSTED ? NULL : h->why, -1);
	h->untold = 0;
}

static void set_state(struct hint *h, enum hint_state s, const char *text)
{
	if (h->state == s && !strcmp(h->why, text))
		return;
	h->untold += !h->told;
	h->state = s;
	h->told = false;
	snprintf(h->why, sizeof(h->why), "%s", text);
	tell_state(h);
}

/* --- the policy -------------------------------------------------------------------------------- */

/*
 * The policy for dirty logs that decides for this VM, as the kernel chooses it: the VM's own, whatever its state,
 * else that for every VM.
 */
static const struct rec *decides(const struct state *st, uint32_t vm)
{
	const struct rec *all = NULL;

	for (int i = 0; i < st->n; i++) {
		const struct rec *r = &st->rec[i];
		const char *table = rec_str(r, "table"), *state = rec_str(r, "state");

		/* That of a VM that is gone is not for the next VM of that process id. */
		if (!rec_is(r, "policy") || !table || strcmp(table, "dirty") ||
		    (state && !strcmp(state, "vm-gone")))
			continue;
		if (rec_u64(r, "vm") == vm)
			return r;
		if (!rec_u64(r, "vm"))
			all = r;
	}
	return all;
}

/* Why that policy does nothing for this VM, or NULL; to be freed */
static char *why_idle(const struct state *st, const struct rec *r, uint32_t vm)
{
	const struct policies ps = { .st = *st };
	const struct policy p = { .rec = r, .vm = rec_u64(r, "vm") };
	const char *state = rec_str(r, "state"), *msg = rec_str(r, "msg");

	if (kill_switch_on())
		return str("the kill switch is thrown (" KILL_SWITCH ")");
	if (!state || strcmp(state, "active"))
		return str("the policy is %s: %s", state ? state : "gone", msg ? msg : "");
	for (r = NULL; (r = policy_taken(&ps, &p, r));) {
		msg = rec_str(r, "msg");
		if (rec_u64(r, "vm") == vm)
			return str("the policy was taken from the VM: %s", msg ? msg : "");
	}
	return NULL;
}

static int find_policy(const struct policies *ps, uint32_t vm, const struct policy **out)
{
	const struct rec *r = decides(&ps->st, vm);
	const char *name = r ? rec_str(r, "name") : NULL;
	char *why;

	if (!name || strcmp(name, POLICY))
		return fail(E_POLICY, str("kvmext load skip_free.bpf.o --vm %u", vm),
			    "no policy '" POLICY "' is loaded for VM %u", vm);
	why = why_idle(&ps->st, r, vm);
	if (why)
		return fail(E_POLICY, "kvmext list says more; unload it and load it anew",
			    "'" POLICY "' does nothing for VM %u: %s", vm, why);
	for (int i = 0; i < ps->n; i++)
		if (ps->p[i].rec == r)
			*out = &ps->p[i];
	return OK;
}

/* The table that a link has now, 0 when it is gone */
static uint32_t ops_of(uint32_t link_id)
{
	struct bpf_link_info info = {};
	uint32_t len = sizeof(info);
	int fd = bpf_link_get_fd_by_id(link_id);

	if (fd < 0)
		return 0;
	if (bpf_link_get_info_by_fd(fd, &info, &len))
		info.struct_ops.map_id = 0;
	close(fd);
	return info.struct_ops.map_id;
}

/* Why the policy serves this VM no more, or NULL; to be freed */
static char *why_gone(const struct hint *h)
{
	uint32_t vm = h->a->tracer.filter.vm;
	bool mute = fail_mute(true);
	const struct rec *r;
	struct state st;
	char *why = NULL;
	int ret = state_read(&st);

	fail_mute(mute);
	if (ops_of(h->link_id) != h->ops_id) {
		why = str("the policy is gone, or another is in its place");
	} else if (ret == OK) {
		r = decides(&st, vm);
		why = r && rec_u64(r, "link") == h->link_id ?
			      why_idle(&st, r, vm) :
			      str("another policy decides for the VM, or none");
	}
	if (ret == OK)
		state_free(&st);
	return why;
}

/* An area that a kvmext hint which was killed has left goes when its VM has gone. */
static void tidy_areas(int areas_fd)
{
	uint32_t vm, next;
	int err = bpf_map_get_next_key(areas_fd, NULL, &next);

	while (!err) {
		vm = next;
		err = bpf_map_get_next_key(areas_fd, &vm, &next);
		if (vm_ended(vm))
			bpf_map_delete_elem(areas_fd, &vm);
	}
}

/* The area of this VM, where the policy looks for it, in place of what one that was killed has left */
static int open_lease(struct hint *h)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	uint32_t vm = h->a->tracer.filter.vm;
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "area", 4, 8, FREE_LEASE_WORDS, &opts);

	if (fd < 0)
		return fail(E_INTERNAL, NULL, "cannot make a map: %s", strerror(errno));
	h->lease = mmap(NULL, sizeof(*h->lease), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h->lease == MAP_FAILED)
		return fail(E_INTERNAL, NULL, "cannot map a map: %s", strerror(errno));
	tidy_areas(h->areas_fd);
	if (bpf_map_update_elem(h->areas_fd, &vm, &fd, 0))
		return fail(errno == E2BIG ? E_CONFLICT : E_INTERNAL,
			    "end another VM's kvmext hint: a policy serves so many VMs",
			    "cannot tell '" POLICY "' of VM %u: %s", vm, strerror(errno));
	close(fd);
	return OK;
}

static int open_policy(struct hint *h)
{
	const struct policy *p = NULL;
	struct policies ps;
	int ret;

	ret = policies_read(&ps);
	if (ret == OK)
		ret = find_policy(&ps, h->a->tracer.filter.vm, &p);
	if (ret != OK)
		return ret;
	h->link_id = p->link_id;
	h->ops_id = ops_of(p->link_id);
	h->areas_fd = policy_map(p, "areas");
	if (h->areas_fd < 0)
		return fail(E_OBJECT, "load the one of this version",
			    "policy '%s' has no map 'areas'", p->instance);
	return OK;
}

/* Not to be believed from here on. */
static void end_lease(struct hint *h)
{
	__atomic_store_n(&h->lease->until, 0, __ATOMIC_SEQ_CST);
}

static void publish(struct hint *h)
{
	end_lease(h);
	__atomic_store_n(&h->lease->cookie, 0, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < FREE_AREA_PAGES; i++)
		h->lease->gfns[i] = i < h->new_pages ? h->gfns[i] + 1 : 0;
	h->cookie = h->new_cookie;
	h->pfns = h->new_pfns;
	__atomic_store_n(&h->lease->pfns, h->pfns, __ATOMIC_SEQ_CST);
	__atomic_store_n(&h->lease->cookie, h->cookie, __ATOMIC_SEQ_CST);
	h->next_beat = 0;
}

/* --- the guest --------------------------------------------------------------------------------------- */

static int join(const char *path, int *fd)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strcpy(addr.sun_path, path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || connect(*fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    fcntl(*fd, F_SETFL, O_NONBLOCK)) {
		if (errno == EACCES || errno == EPERM)
			return fail(
				E_PRIV,
				has_cap(CAP_DAC_OVERRIDE) ?
					"see what security module forbids it" :
					"give it CAP_DAC_OVERRIDE, or let it write to the socket",
				"cannot connect to %s: %s", path, strerror(errno));
		return fail(
			E_ENV,
			"QEMU: -chardev socket,path=SOCKET,server=on,wait=off and a virtserialport "
			"with name=" FREE_PORT,
			"cannot connect to %s: %s", path, strerror(errno));
	}
	return OK;
}

/* What does not get through is asked again. */
static void tell(const struct hint *h, const char *text)
{
	if (send(h->sock, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		errno = 0;
}

static void heard_area(struct hint *h, const char *line)
{
	uint64_t cookie, pfns, first, count;
	bool asked = h->asking;
	uint32_t pages;

	/* A line that is not whole changes nothing of what was checked. */
	if (sscanf(line, "area 1 %" SCNx64 " %" SCNu64 " %u", &cookie, &pfns, &pages) == 3) {
		h->new_cookie = cookie;
		h->new_pfns = pfns;
		h->new_pages = pages;
		h->got = 0;
		h->asking = false;
		if (!asked || !cookie || pages < 2 || pages > FREE_AREA_PAGES ||
		    pfns > (pages - 1ull) * FREE_PAGE_BITS)
			h->new_pages = 0;
	} else if (sscanf(line, "gfn %" SCNu64 " %" SCNu64, &first, &count) == 2) {
		if (!first || first >> GFN_BITS || count > h->new_pages - h->got)
			h->new_pages = h->got = 0;
		for (uint64_t i = 0; i < count && h->got < h->new_pages; i++)
			h->gfns[h->got++] = first + i;
	} else if (!strcmp(line, "end") && h->new_pages && h->got == h->new_pages) {
		h->got = h->new_pages;
		publish(h);
		h->new_pages = h->got = 0;
	}
}

static void heard_alive(struct hint *h, uint64_t cookie, uint64_t n)
{
	uint64_t until;

	if (cookie != h->cookie) {
		/* Another area than we know of: to be asked for, in its time */
		h->cookie = 0;
		end_lease(h);
		return;
	}
	if (!cookie || n > h->beat || n + BEATS <= h->beat || !h->sent_ns[n % BEATS])
		return;
	until = h->sent_ns[n % BEATS] + LEASE_NS;
	if (until <= clock_ns() || until <= h->lease->until)
		return;
	__atomic_store_n(&h->lease->until, until, __ATOMIC_SEQ_CST);
	set_state(h, S_TRUSTED, "the guest tells its free pages");
}

/* The guest's own words: some of them, and nothing that a terminal would obey */
static void heard_refused(struct hint *h, const char *words)
{
	char text[sizeof(h->why)];

	snprintf(text, sizeof(text), "the guest refuses: %s", words);
	for (char *p = text; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	end_lease(h);
	h->cookie = 0;
	set_state(h, S_REFUSED, text);
}

static void heard(struct hint *h, char *line)
{
	uint64_t cookie, n;

	if (!strncmp(line, "alive ", 6)) {
		if (sscanf(line, "alive %" SCNx64 " %" SCNu64, &cookie, &n) == 2)
			heard_alive(h, cookie, n);
	} else if (!strncmp(line, "bye ", 4)) {
		end_lease(h);
		h->cookie = 0;
		set_state(h, S_GONE, "the guest's agent has ended");
	} else if (!strncmp(line, "refused ", 8)) {
		heard_refused(h, line + 8);
	} else if (h->zeroing && sscanf(line, "zeroed %" SCNu64, &n) == 1 && n <= h->pfns) {
		h->zeroing = false;
		say("the guest says that it has zeroed %" PRIu64 " free pages", n);
		show(h, "zeroed", NULL, n);
		h->moving_until = clock_ns() + MOVING_NS;
	} else if (h->scanning && sscanf(line, "scanned %" SCNu64, &n) == 1 && n <= h->pfns) {
		h->scanning = false;
		show(h, "scanned", NULL, n);
	} else if (*line == 'a' || *line == 'g' || *line == 'e') {
		heard_area(h, line);
	}
}

/* Lines of what has come; a part of one stays. */
static void split(struct hint *h)
{
	char *line = h->in, *end;

	while ((end = memchr(line, '\n', h->in + h->len - line))) {
		*end = 0;
		if (!h->too_long && end > line)
			heard(h, line);
		h->too_long = false;
		line = end + 1;
	}
	h->len -= line - h->in;
	memmove(h->in, line, h->len);
	if (h->len == sizeof(h->in)) {
		h->len = 0;
		h->too_long = true;
	}
}

/* listen_on - what has come, but no more than a turn's worth; false at the end */
static bool listen_on(struct hint *h)
{
	for (size_t all = 0; all < READ_TURN && h->reads.left >= 1;) {
		ssize_t n = recv(h->sock, h->in + h->len, sizeof(h->in) - h->len, MSG_DONTWAIT);

		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		if (n < 0)
			break;
		all += n;
		h->reads.left -= n;
		h->len += n;
		split(h);
	}
	return true;
}

/* Where more may be read from, or -1: the guest has said too much. */
static int may_read(struct hint *h)
{
	return bucket_fill(&h->reads, READ_BURST, READ_PER_S) >= 1 ? h->sock : -1;
}

/* pace - what is due; false when there is no policy to serve any more */
static bool pace(struct hint *h)
{
	uint64_t now = clock_ns(), logs;
	char text[64], *why;

	tell_state(h);
	/* The policy looks at the time itself; this is for people. */
	if (h->state == S_TRUSTED && h->lease->until <= now)
		set_state(h, S_SILENT, "the guest does not answer");
	if (h->state == S_ASKED && tracer_seconds(&h->a->tracer) > 3)
		set_state(h, S_SILENT, "the guest has no agent that answers: all pages are sent");
	if (now >= h->next_ask && (!h->cookie || h->state == S_SILENT)) {
		tell(h, "\nregister\n");
		h->asking = true;
		h->next_ask = now + ASK_NS;
	}
	if (h->state == S_TRUSTED && h->a->zero >= 0 && !h->zero_sent) {
		/* What CPUs keep for themselves is to be zeroed too. */
		snprintf(text, sizeof(text), "moving\nzero %" PRId64 "\n", h->a->zero);
		tell(h, text);
		h->zero_sent = h->zeroing = true;
		h->moving_until = now + MOVING_NS;
	}
	if (now >= h->next_beat) {
		logs = counter(&h->lease->logs);
		/* A migration begins: a second before it is to know all that is free. */
		if (logs != h->logs && now - h->logs_ns > QUIET_NS && h->cookie) {
			tell(h, "scan\n");
			h->scanning = true;
		}
		if (logs != h->logs) {
			h->logs_ns = now;
			h->moving_until = now + MOVING_NS;
		}
		h->logs = logs;
		h->next_beat = now + BEAT_NS;
		if (h->cookie) {
			h->beat++;
			h->sent_ns[h->beat % BEATS] = now;
			snprintf(text, sizeof(text), "%sbeat %" PRIu64 "\n",
				 now < h->moving_until ? "moving\n" : "", h->beat);
			tell(h, text);
		}
	}
	if (now < h->next_show)
		return true;
	h->next_show = now + SHOW_NS;
	why = why_gone(h);
	if (why) {
		set_state(h, S_GONE, why);
		free(why);
		return false;
	}
	if (h->logs != h->shown_logs) {
		if (!g.json)
			say("%" PRIu64 " pages were left out, %" PRIu64 " sent",
			    counter(&h->lease->skipped), counter(&h->lease->sent));
		show(h, "progress", NULL, -1);
	}
	h->shown_logs = h->logs;
	return true;
}

static int hint(const struct hint_args *a)
{
	struct hint *h = calloc(1, sizeof(*h));
	bool open = true;
	int ret;

	if (!h)
		abort();
	h->a = a;
	h->gfns = calloc(FREE_AREA_PAGES, sizeof(*h->gfns));
	if (!h->gfns)
		abort();
	/* A policy has one area for each VM, so one of us for each. */
	ret = lock_one("hint", a->tracer.filter.vm,
		       str("another kvmext hint serves VM %u", a->tracer.filter.vm));
	if (ret == OK)
		ret = open_policy(h);
	if (ret == OK)
		ret = join(a->port, &h->sock);
	if (ret == OK)
		ret = open_lease(h);
	if (ret != OK)
		return ret;
	if (g.json)
		j_lines();
	/* A reader that has gone ends the run, and not us before the area is taken back. */
	signal(SIGPIPE, SIG_IGN);
	tracer_begin(&a->tracer);
	h->told = true;
	while (open && !ferror(stdout) && tracer_wait((struct tracer *)&a->tracer, may_read(h))) {
		open = listen_on(h);
		if (!pace(h))
			break;
	}
	end_lease(h);
	bpf_map_delete_elem(h->areas_fd, &h->a->tracer.filter.vm);
	if (h->zero_sent)
		tell(h, "release\n");
	if (!open)
		set_state(h, S_GONE, "the VM has closed the port");
	/* The last word is told, however much was said before. */
	h->tells.left++;
	tell_state(h);
	tracer_end(&a->tracer);
	show(h, "end", NULL, -1);
	return OK;
}

int cmd_hint(int argc, char **argv)
{
	static const char doc[] =
		"On the host: keep the policy " POLICY
		" told which pages of a guest are free, until "
		"Ctrl-C, --for, or the end of the VM.\v"
		"In the guest kvmext guest runs.  Without an answer from it within a second, or with "
		"this command ended, all pages are sent.  What --zero does need not be undone.";
	struct hint_args a = {
		.tracer = { .cmd = "hint", .filter = { .vcpu = NO_VCPU } },
		.zero = -1,
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, NULL, doc, &a);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK)
		ret = tracer_ready(&a.tracer);
	if (ret == OK && nr_vms(a.tracer.filter.vm) > 1)
		return fail(E_VM, "one VM for each process is what can be told apart",
			    "process %u has several VMs", a.tracer.filter.vm);
	return ret == OK ? hint(&a) : ret;
}
