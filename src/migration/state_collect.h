/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of devices that can only be loaded whole (base/state.h): keeps what a receiver hands out in
 * pieces until the last one is there. What it may keep of all devices together is limited.
 *
 * Threads: one at a time for a device, several devices at once (as receiver.h calls `load`); looking at
 * a state after its last piece. Errors: too much; memory is short.
 */
#ifndef GODWIT_MIGRATION_STATE_COLLECT_H
#define GODWIT_MIGRATION_STATE_COLLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct state_collector;

/* @limit: bytes of all @devices together. */
struct error *state_collector_create(uint32_t devices, uint64_t limit,
				     struct state_collector **collector) MUST_CHECK;
/* Accepts NULL. */
void state_collector_destroy(struct state_collector *collector);
DEFINE_CLEANUP(state_collector, struct state_collector *, state_collector_destroy)
#define AUTO_STATE_COLLECTOR AUTO(cleanup_state_collector)

/* Adds @size bytes to the state of @device; @last: it is whole. */
struct error *state_collector_add(struct state_collector *collector, uint32_t device,
				  const void *bytes, size_t size, bool last) MUST_CHECK;
/* The state of @device, or NULL when it is not whole; borrowed until destroy. */
const void *state_collector_bytes(const struct state_collector *collector, uint32_t device,
				  size_t *size);

#endif
