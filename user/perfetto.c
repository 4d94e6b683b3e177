// SPDX-License-Identifier: GPL-2.0
/*
 * Chrome's trace event format, as an array: the viewers take one that is cut off
 * after any of its lines, and only whole lines are written, so that of a run that
 * was killed there is a file to look at.
 */
#include "perfetto.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base.h"
#include "event.h"
#include "host.h"
#include "out.h"

#define LINE_MAX_LEN 1024

struct track {
	uint32_t vm;
	int32_t vcpu;
	uint32_t tid;
};

static struct track *tracks;
static int nr_tracks, nr_named;
static uint32_t *named;
static char buf[1 << 16];
static size_t used;
static int fd = -1;
static int error;
static const char *file;

/* What was written of a line of which the rest found no room goes. */
static void drop_part(size_t done)
{
	size_t part = 0;
	off_t end = lseek(fd, 0, SEEK_CUR);

	while (part < done && buf[done - part - 1] != '\n')
		part++;
	/* A device has no end to cut.  The error to tell of is the one of the write. */
	if (end >= 0 && ftruncate(fd, end - part))
		return;
}

bool perfetto_flush(void)
{
	for (size_t done = 0; done < used && !error;) {
		ssize_t n = write(fd, buf + done, used - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			error = n ? errno : ENOSPC;
			drop_part(done);
			break;
		}
		done += n;
	}
	used = 0;
	return !error;
}

static void line(const char *fmt, ...) __printf(1, 2);
static void line(const char *fmt, ...)
{
	va_list ap;
	int n;

	if (used + LINE_MAX_LEN > sizeof(buf))
		perfetto_flush();
	va_start(ap, fmt);
	n = vsnprintf(buf + used, LINE_MAX_LEN, fmt, ap);
	va_end(ap);
	/* Rather one event less than half a line. */
	if (n < LINE_MAX_LEN)
		used += n;
}

int perfetto_open(const char *path)
{
	file = path;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(E_USAGE, "give a file that can be written", "cannot write %s: %s", path,
			    strerror(errno));
	line("[\n");
	return OK;
}

/* What stands in JSON between quotes */
static const char *plain(char *s)
{
	for (char *p = s; p && *p; p++)
		if (*p == '"' || *p == '\\' || *p < ' ' || *p > '~')
			*p = '?';
	return s ? s : "-";
}

static void name_vm(uint32_t vm)
{
	char *comm;

	for (int i = 0; i < nr_named; i++)
		if (named[i] == vm)
			return;
	named = realloc(named, (nr_named + 1) * sizeof(*named));
	if (!named)
		abort();
	named[nr_named++] = vm;
	comm = vm ? proc_comm(vm) : NULL;
	line("{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%u,\"tid\":%u,"
	     "\"args\":{\"name\":\"%s %s\"}},\n",
	     vm, vm, vm ? "VM" : "KVM", plain(comm));
	free(comm);
}

static struct track *track(uint32_t vm, int32_t vcpu)
{
	for (int i = 0; i < nr_tracks; i++)
		if (tracks[i].vm == vm && tracks[i].vcpu == vcpu)
			return &tracks[i];
	return NULL;
}

void perfetto_vcpu(uint32_t vm, int32_t vcpu, uint32_t tid)
{
	if (vcpu == NO_VCPU || !tid || track(vm, vcpu))
		return;
	tracks = realloc(tracks, (nr_tracks + 1) * sizeof(*tracks));
	if (!tracks)
		abort();
	tracks[nr_tracks++] = (struct track){ vm, vcpu, tid };
	name_vm(vm);
	line("{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%u,\"tid\":%u,"
	     "\"args\":{\"name\":\"vCPU %d\"}},\n",
	     vm, tid, vcpu);
	line("{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%u,\"tid\":%u,"
	     "\"args\":{\"sort_index\":%d}},\n",
	     vm, tid, vcpu);
}

void perfetto_event(const struct event *ev, const char *cat, const char *name, const char *args)
{
	char dur[48] = "";
	struct track *t;
	uint32_t tid;

	if (ev->dur != NO_DUR)
		snprintf(dur, sizeof(dur), "\"dur\":%" PRIu64 ".%03u,", (uint64_t)(ev->dur / 1000),
			 (unsigned int)(ev->dur % 1000));
	perfetto_vcpu(ev->vm, ev->vcpu, ev->tid);
	name_vm(ev->vm);
	/* What is no vCPU's, or of one not seen yet, is beside them, on the process itself. */
	t = track(ev->vm, ev->vcpu);
	tid = t ? t->tid : ev->vm;
	line("{\"ph\":\"%s\",\"cat\":\"%s\",\"name\":\"%s\",\"pid\":%u,\"tid\":%u,"
	     "\"ts\":%" PRIu64 ".%03u,%s\"args\":{%s}},\n",
	     ev->dur == NO_DUR ? "i" : "X", cat, name, ev->vm, tid, (uint64_t)(ev->ts / 1000),
	     (unsigned int)(ev->ts % 1000),
	     *dur   ? dur :
	     ev->vm ? "\"s\":\"t\"," :
		      "\"s\":\"g\",",
	     args);
}

int perfetto_close(void)
{
	/* No comma may stand before the bracket: one more line, which names no track. */
	line("{\"ph\":\"M\",\"name\":\"trace_end\",\"pid\":0,\"tid\":0,\"args\":{}}\n]\n");
	perfetto_flush();
	if (close(fd) && !error)
		error = errno;
	return error ? fail(E_INTERNAL, "is its disk full? what was written can be opened",
			    "cannot write %s: %s", file, strerror(error)) :
		       OK;
}
