/* SPDX-License-Identifier: GPL-2.0 */
/* A file for ui.perfetto.dev and chrome://tracing. */
#ifndef __KVMEXT_PERFETTO_H
#define __KVMEXT_PERFETTO_H

#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>

#include "event.h"

int perfetto_open(const char *path);
void perfetto_vcpu(uint32_t vm, int32_t vcpu, uint32_t tid);
/**
 * perfetto_event - write an event
 * @ev: it
 * @cat: its kind
 * @name: what it is called there
 * @args: more about it, members of a JSON object, "" if none
 */
void perfetto_event(const struct event *ev, const char *cat, const char *name, const char *args);
/* perfetto_flush - write it out; false if that failed, now or before */
bool perfetto_flush(void);
/* perfetto_close - make it whole; E_INTERNAL if not all could be written */
int perfetto_close(void);

#endif /* __KVMEXT_PERFETTO_H */
