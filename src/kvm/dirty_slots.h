/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the guest's processors write: KVM as a source of the log of writes (memory/dirty_log.h), slot
 * by slot. For slots.c alone; others use the log.
 *
 * Two ways, chosen when the VM is made. KVM's *bitmap* of each slot, by default. Or *dirty rings*
 * (dirty_ring.h), one a processor, which also tell who writes how much.
 *
 * The bitmap, with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.0): collecting reads it and leaves it
 * as it is; only before a page is copied is its bit cleared, and the page made to fault on the next
 * write. A page that is written again while it waits to be copied costs the guest nothing. With
 * KVM_DIRTY_LOG_INITIALLY_SET (Linux 5.6) starting costs nothing either: all pages count as
 * written, large mappings stay, and each is split when its pages are about to be copied. Older
 * kernels: collecting clears.
 *
 * What was collected and not cleared yet is in `pending`. Only this is ever cleared: a page that was
 * written after the collection, and that nobody is going to copy yet, keeps its bit whatever range
 * is asked for.
 *
 * Slots that come and go. KVM's bitmap goes with its slot. Where a slot is cut or merged its memory
 * stays, so its marks are taken over before (`kept`), while no vCPU runs guest code. A slot that is made while
 * writes are logged starts with no marks, even where others started with all: plugged memory
 * is reported by the memory map, and the rest is in `kept`. (KVM is told so for the moment; it must
 * be told otherwise at once, for with that flag it also write-protects the large pages that older
 * slots still have when their bits are cleared.)
 *
 * All functions: with the lock of the slots held.
 */
#ifndef GODWIT_KVM_DIRTY_SLOTS_H
#define GODWIT_KVM_DIRTY_SLOTS_H

#include "kvm/slots.h"

struct region_slots;
struct slot;

/* Makes the slots a source of their map's log, and no longer. Without the lock. */
struct error *dirty_slots_init(struct kvm_slots *slots) MUST_CHECK;
void dirty_slots_finish(struct kvm_slots *slots);

/* Around the making of a slot. @slot NULL: it was not made. */
void dirty_slots_before_insert(struct kvm_slots *slots);
void dirty_slots_after_insert(struct kvm_slots *slots, struct region_slots *own,
			      const struct slot *slot);
/* Takes over the marks of a slot that is about to go while its memory stays. vCPUs are held. */
void dirty_slots_keep(struct kvm_slots *slots, struct region_slots *own, const struct slot *slot);
/* A slot is gone, and with it its marks. */
void dirty_slots_after_erase(struct kvm_slots *slots, struct region_slots *own,
			     const struct slot *slot);
/* The region goes. */
void dirty_slots_forget(struct region_slots *own);
/* Empties the dirty rings, so that processors that filled theirs can go on. */
void dirty_slots_reap(struct kvm_slots *slots);

#endif
