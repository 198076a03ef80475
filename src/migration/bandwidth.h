/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A limit on what all connections of a migration send together: who sends takes its bytes first, and
 * waits until the limit allows them. A short burst is allowed after a pause.
 *
 * Threads: any. Without a limit, taking costs one predictable branch.
 */
#ifndef GODWIT_MIGRATION_BANDWIDTH_H
#define GODWIT_MIGRATION_BANDWIDTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct bandwidth;

/* @rate: bytes a second; 0: no limit. */
struct error *bandwidth_create(uint64_t rate, struct bandwidth **bandwidth) MUST_CHECK;
/* Nobody may be waiting. Accepts NULL. */
void bandwidth_destroy(struct bandwidth *bandwidth);

/* Another limit, for those as well who wait already. */
void bandwidth_set(struct bandwidth *bandwidth, uint64_t rate);
uint64_t bandwidth_rate(const struct bandwidth *bandwidth);
/* Takes @bytes, waiting for them; false once bandwidth_cancel was called. */
bool bandwidth_take(struct bandwidth *bandwidth, uint64_t bytes);
/* While it is @on nobody waits; what is taken counts, and is waited for by who comes later. */
void bandwidth_set_hurry(struct bandwidth *bandwidth, bool on);
/* Nobody waits any more. */
void bandwidth_cancel(struct bandwidth *bandwidth);

/*
 * The arithmetic, without a clock: somebody takes @bytes at the time @now. *@free_at is when the
 * limit is next free; returns when the taker may go on. Both in nanoseconds.
 */
int64_t bandwidth_schedule(int64_t *free_at, int64_t now, uint64_t rate, uint64_t bytes);

#endif
