/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slows processors down, each by a share of its time: for guests that write faster than a migration
 * sends.
 *
 * A processor that may run for a share of its time only pays for what it has run: after each few
 * milliseconds in the guest it rests as long as its share says. So one that is idle pays nothing, whatever
 * its share, and interrupts that wake it find it awake.
 *
 * Threads: one of its own kicks; the rest is for any.
 */
#ifndef GODWIT_KVM_VCPU_THROTTLE_H
#define GODWIT_KVM_VCPU_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kvm/vcpu.h"

#define VCPU_THROTTLE_MIN 0.01 /* the least of its time that a processor keeps */

struct vcpu_throttle;

/* Begins with all processors at full speed. They must stay until it is stopped. */
struct error *vcpu_throttle_start(struct kvm_vcpus *vcpus,
				  struct vcpu_throttle **throttle) MUST_CHECK;
/* All processors at full speed again, at once. Accepts NULL. */
void vcpu_throttle_stop(struct vcpu_throttle *throttle);
/*
 * What was written was collected, @pages since the last time, by whomever: from here to the next time
 * counts who writes how much.
 */
void vcpu_throttle_note(struct vcpu_throttle *throttle, uint64_t pages);
/*
 * Makes the processors together write @factor, 0 to 1, of what they write now. Those that write most are
 * slowed first, down to what the others write, where KVM told who has written most of what
 * vcpu_throttle_note was last told of (kvm_vcpus_written); else all alike. What was asked for before
 * counts: two times a half is a quarter. Returns whether it was known who writes.
 */
bool vcpu_throttle_slow(struct vcpu_throttle *throttle, double factor);
/* The share of its time that the slowest processor keeps, 1: none is slowed. */
double vcpu_throttle_least(struct vcpu_throttle *throttle);

/*
 * The pure part: which part of what it writes each of @count processors may write, @parts, when all
 * together may write @factor of the sum of @written. The one limit is the highest for which that holds.
 */
void vcpu_throttle_divide(const uint64_t *written, uint32_t count, double factor, double *parts);
/* Likewise: whether @written, of each of @count processors, explains most of @pages that were written. */
bool vcpu_throttle_explains(const uint64_t *written, uint32_t count, uint64_t pages);

#endif
