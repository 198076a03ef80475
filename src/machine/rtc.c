/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MC146818 real-time clock (Motorola data sheet). The time is the host's plus an offset, which the
 * guest changes by setting the clock. vCPU threads access it under one lock. An impossible date
 * from the guest is normalised.
 */
#include "machine/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"
#include "machine/platform.h"

enum {
	RTC_SECONDS = 0,
	RTC_MINUTES = 2,
	RTC_HOURS = 4,
	RTC_WEEKDAY = 6,
	RTC_DAY = 7,
	RTC_MONTH = 8,
	RTC_YEAR = 9,
	RTC_A = 10,
	RTC_B = 11,
	RTC_C = 12,
	RTC_D = 13,
	RTC_CENTURY = 0x32,
	RTC_SIZE = 128,
};

#define RTC_A_VALUE   0x26 /* 32 kHz time base; "update in progress" is never set */
#define RTC_B_SET     0x80 /* the guest is writing the time */
#define RTC_B_BINARY  0x04
#define RTC_B_24_HOUR 0x02
#define RTC_D_VALID   0x80
#define RTC_HOUR_PM   0x80
#define RTC_B_MASK    (RTC_B_SET | RTC_B_BINARY | RTC_B_24_HOUR)

/* Seconds; more than the two digits of year and century, with any bits in them, can say. */
#define RTC_OFFSET_MAX (1LL << 40)

struct rtc {
	struct io_bus *bus;
	pthread_mutex_t lock; /* guards all below */
	uint8_t index;
	uint8_t bytes[RTC_SIZE];
	int64_t offset; /* seconds to add to the host's time */
};

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
	return (uint8_t)(rtc->bytes[RTC_B] & RTC_B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t value)
{
	return rtc->bytes[RTC_B] & RTC_B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

/* Fills the time registers from the clock. */
static void rtc_latch(struct rtc *rtc)
{
	time_t now = (time_t)(clock_realtime_ns() / NS_PER_SECOND + rtc->offset);
	struct tm tm;
	int year;

	if (!gmtime_r(&now, &tm))
		return;
	year = MAX(tm.tm_year + 1900, 0);
	rtc->bytes[RTC_SECONDS] = rtc_encode(rtc, tm.tm_sec);
	rtc->bytes[RTC_MINUTES] = rtc_encode(rtc, tm.tm_min);
	if (rtc->bytes[RTC_B] & RTC_B_24_HOUR)
		rtc->bytes[RTC_HOURS] = rtc_encode(rtc, tm.tm_hour);
	else
		rtc->bytes[RTC_HOURS] =
		    rtc_encode(rtc, tm.tm_hour % 12 ?: 12) | (tm.tm_hour >= 12 ? RTC_HOUR_PM : 0);
	rtc->bytes[RTC_WEEKDAY] = rtc_encode(rtc, tm.tm_wday + 1);
	rtc->bytes[RTC_DAY] = rtc_encode(rtc, tm.tm_mday);
	rtc->bytes[RTC_MONTH] = rtc_encode(rtc, tm.tm_mon + 1);
	rtc->bytes[RTC_YEAR] = rtc_encode(rtc, year % 100);
	rtc->bytes[RTC_CENTURY] = rtc_encode(rtc, year / 100);
}

/* Sets the clock from the time registers. */
static void rtc_apply(struct rtc *rtc)
{
	uint8_t hours = rtc->bytes[RTC_HOURS];
	struct tm tm = {
	    .tm_sec = rtc_decode(rtc, rtc->bytes[RTC_SECONDS]),
	    .tm_min = rtc_decode(rtc, rtc->bytes[RTC_MINUTES]),
	    .tm_mday = rtc_decode(rtc, rtc->bytes[RTC_DAY]),
	    .tm_mon = rtc_decode(rtc, rtc->bytes[RTC_MONTH]) - 1,
	    .tm_year = rtc_decode(rtc, rtc->bytes[RTC_YEAR]) +
		       rtc_decode(rtc, rtc->bytes[RTC_CENTURY]) * 100 - 1900,
	};

	if (rtc->bytes[RTC_B] & RTC_B_24_HOUR)
		tm.tm_hour = rtc_decode(rtc, hours);
	else
		tm.tm_hour =
		    rtc_decode(rtc, hours & ~RTC_HOUR_PM) % 12 + (hours & RTC_HOUR_PM ? 12 : 0);
	rtc->offset = (int64_t)timegm(&tm) - clock_realtime_ns() / NS_PER_SECOND;
}

static bool rtc_is_time(uint8_t index)
{
	return (index <= RTC_YEAR && index != 1 && index != 3 && index != 5) ||
	       index == RTC_CENTURY;
}

static void rtc_write_data(struct rtc *rtc, uint8_t value)
{
	bool setting = rtc->bytes[RTC_B] & RTC_B_SET;

	switch (rtc->index) {
	case RTC_A:
	case RTC_C:
	case RTC_D:
		break;
	case RTC_B:
		if (!setting)
			rtc_latch(rtc);
		else if (!(value & RTC_B_SET))
			rtc_apply(rtc);
		rtc->bytes[RTC_B] = value & RTC_B_MASK;
		break;
	default:
		if (rtc_is_time(rtc->index) && !setting)
			rtc_latch(rtc);
		rtc->bytes[rtc->index] = value;
		if (rtc_is_time(rtc->index) && !setting)
			rtc_apply(rtc);
		break;
	}
}

static uint8_t rtc_read_data(struct rtc *rtc)
{
	if (rtc_is_time(rtc->index) && !(rtc->bytes[RTC_B] & RTC_B_SET))
		rtc_latch(rtc);
	return rtc->bytes[rtc->index];
}

static void rtc_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct rtc *rtc = context;
	uint8_t *bytes = data;

	pthread_mutex_lock(&rtc->lock);
	for (uint32_t i = 0; i < size; i++)
		bytes[i] = offset + i ? rtc_read_data(rtc) : rtc->index;
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct rtc *rtc = context;
	const uint8_t *bytes = data;

	pthread_mutex_lock(&rtc->lock);
	for (uint32_t i = 0; i < size; i++) {
		if (offset + i)
			rtc_write_data(rtc, bytes[i]);
		else
			rtc->index = bytes[i] &
				     (RTC_SIZE - 1); /* bit 7 masks NMIs, of which there are none */
	}
	pthread_mutex_unlock(&rtc->lock);
}

static const struct io_handler rtc_io = {.read = rtc_read, .write = rtc_write};

struct error *rtc_create(struct io_bus *bus, struct rtc **result)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	struct error *error;

	if (!rtc)
		return error_system(ENOMEM, "real-time clock");
	rtc->bus = bus;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->bytes[RTC_A] = RTC_A_VALUE;
	rtc->bytes[RTC_B] = RTC_B_24_HOUR;
	rtc->bytes[RTC_D] = RTC_D_VALID;
	error =
	    io_bus_add(bus, PLATFORM_RTC_PORT, PLATFORM_RTC_SIZE, &rtc_io, rtc, "real-time clock");
	if (error) {
		pthread_mutex_destroy(&rtc->lock);
		free(rtc);
		return error;
	}
	*result = rtc;
	return NULL;
}

void rtc_destroy(struct rtc *rtc)
{
	if (!rtc)
		return;
	io_bus_remove(rtc->bus, PLATFORM_RTC_PORT);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

void rtc_state(void *context, struct state *state)
{
	struct rtc *rtc = context;
	uint64_t offset;

	pthread_mutex_lock(&rtc->lock);
	offset = (uint64_t)rtc->offset;
	state_u8(state, "index", &rtc->index);
	state_check(state, rtc->index < RTC_SIZE, "index", "is not a register");
	state_buffer(state, "bytes", rtc->bytes, sizeof(rtc->bytes));
	state_check(state,
		    rtc->bytes[RTC_A] == RTC_A_VALUE && !(rtc->bytes[RTC_B] & ~RTC_B_MASK) &&
			!rtc->bytes[RTC_C] && rtc->bytes[RTC_D] == RTC_D_VALID,
		    "bytes", "have control registers with bits that no clock has");
	state_u64(state, "offset", &offset);
	state_check(state, offset + RTC_OFFSET_MAX <= 2 * RTC_OFFSET_MAX, "offset",
		    "is longer than a clock can be set");
	/* A load that failed leaves a clock that can still be read and stopped. */
	if (state_failed(state)) {
		rtc->index %= RTC_SIZE;
		offset = 0;
	}
	if (state_loading(state))
		rtc->offset = (int64_t)offset;
	pthread_mutex_unlock(&rtc->lock);
}
