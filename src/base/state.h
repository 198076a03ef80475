/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device state on its way into or out of a stream. A device describes its state once, in one
 * function that serves for saving and for loading:
 *
 *	static void rtc_state(void *device, struct state *state)
 *	{
 *		struct rtc *rtc = device;
 *
 *		state_u8(state, "index", &rtc->index);
 *		state_check(state, rtc->index < RTC_REGISTERS, "index", "is not a register");
 *	}
 *
 * Saving appends the fields, big-endian, to a buffer that grows, and can note each field's name,
 * type and size for the stream's description. Loading takes the same fields from bytes that nobody
 * vouches for: a field that is not there, or that a check refuses, makes the state *failed* with a
 * message that names the field and its offset. From then on every value read is zero and nothing
 * changes the message, so a device needs to look only where it acts on a value (state_failed, or
 * the return value of state_check). What a failed load left in a device is not to be used.
 *
 * Threads: one thread at a time. Errors: in the state, collected by state_finish.
 */
#ifndef GODWIT_BASE_STATE_H
#define GODWIT_BASE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct state;

/*
 * One part of a machine whose state is a section of the stream: a device, a processor. @visit runs
 * with whatever locks or threads the owner of the list arranges.
 */
struct state_part {
	char name[96];	   /* "0000:00:03.0/virtio-net", at most 95 characters */
	uint32_t instance; /* tells parts with one name apart */
	uint32_t version;  /* of the field list, from 1 */
	void (*visit)(void *context, struct state *state);
	void *context;
};

/* A field as QEMU's stream description knows it. */
struct state_field {
	const char *name; /* static */
	const char *type; /* "bool", "uint8" … "uint64", "buffer" */
	size_t size;	  /* bytes */
};

/*
 * Starts a save. With @describe the fields are also noted for state_fields. Never fails: a
 * shortage of memory makes the state failed.
 */
struct state *state_save_begin(bool describe);
/* Starts a load of @size bytes, borrowed until state_free. @version is what the stream says. */
struct state *state_load_begin(const void *bytes, size_t size, uint32_t version);
void state_free(struct state *state);
DEFINE_CLEANUP(state, struct state *, state_free)
#define AUTO_STATE AUTO(cleanup_state)

/* Visits @part: the whole of it, or an error prefixed with its name. */
struct error *state_visit(struct state *state, const struct state_part *part) MUST_CHECK;
/* The error of a failed state; after a load also when bytes are left over. */
struct error *state_finish(struct state *state) MUST_CHECK;
/* What was saved; borrowed until the next field or state_free. */
const void *state_bytes(const struct state *state, size_t *size);
/* The fields noted, in their order; borrowed likewise. */
const struct state_field *state_fields(const struct state *state, size_t *count);

/* For a device's visit function. */
bool state_loading(const struct state *state);
bool state_failed(const struct state *state);
/* The version of the section that is read; when saving, the part's own. */
uint32_t state_version(const struct state *state);

/* Names are static strings. Values are native integers; a bool other than 0 or 1 fails a load. */
void state_bool(struct state *state, const char *name, bool *value);
void state_u8(struct state *state, const char *name, uint8_t *value);
void state_u16(struct state *state, const char *name, uint16_t *value);
void state_u32(struct state *state, const char *name, uint32_t *value);
void state_u64(struct state *state, const char *name, uint64_t *value);
/* @size bytes as they are. */
void state_buffer(struct state *state, const char *name, void *bytes, size_t size);
/* @bits bits of a bitmap (base/bitmap.h), as big-endian 64-bit words; bits beyond must be zero. */
void state_bitmap(struct state *state, const char *name, uint64_t *bitmap, size_t bits);
/*
 * A 32-bit count of elements that follow. Returns it; a load with more than @maximum fails and
 * returns 0, so that a loop over it is safe. An array of a load may thus be allocated for it.
 */
uint32_t state_count(struct state *state, const char *name, uint32_t count, uint32_t maximum);
/*
 * Fails a load unless so many bytes are left, as they must be for what follows: before memory is
 * allocated for it. Returns whether the state is still good.
 */
bool state_expect(struct state *state, const char *name, size_t size);
/*
 * A value that both sides must have alike, such as a size in the configuration: saved, and compared
 * when loaded.
 */
void state_same(struct state *state, const char *name, uint64_t value);
/*
 * While loading: fails with "<name> <why>" unless @good. Returns whether the state is still good.
 * While saving it only returns that.
 */
bool state_check(struct state *state, bool good, const char *name, const char *why);
/* Fails with @error, which is taken over. For what cannot be read from or put into the kernel. */
void state_fail(struct state *state, struct error *error);

#endif
