/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real-time clock (MC146818) at ports 0x70 and 0x71: the time of day, settable, and 114 bytes
 * of memory. No alarm and no interrupt. Without it Linux waits three seconds at boot for the clock
 * to become ready.
 */
#ifndef GODWIT_MACHINE_RTC_H
#define GODWIT_MACHINE_RTC_H

#include "base/error.h"
#include "base/state.h"
#include "kvm/io_bus.h"

struct rtc;

/* Registers it at its ports of @bus; it shows the host's time in UTC. */
struct error *rtc_create(struct io_bus *bus, struct rtc **rtc) MUST_CHECK;
/* No vCPU runs any more. Accepts NULL. */
void rtc_destroy(struct rtc *rtc);
/* Visits the registers and the clock's distance from the host's, by which the time of day goes on. */
void rtc_state(void *rtc, struct state *state);

#endif
