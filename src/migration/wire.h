/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bytes of a migration (docs/migration-protocol.md): what begins a connection, the frames of the
 * main connection and the records of data connections. Codecs only: nothing here reads, writes or
 * allocates.
 *
 * Encoders are given what is right. Decoders take what a peer sent: whatever is unknown, too long or
 * contradicts itself is refused with a message that names the field and its value. What they cannot
 * know (which blocks and devices there are, what is expected next) is left to their callers.
 *
 * Threads: any, no state.
 */
#ifndef GODWIT_MIGRATION_WIRE_H
#define GODWIT_MIGRATION_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define WIRE_VERSION	  1
#define WIRE_CHANNELS_MAX 64   /* data connections */
#define WIRE_DEVICES_MAX  4096 /* of a machine */
#define WIRE_SESSION_SIZE 16

/* --- What begins a connection ------------------------------------------------------------------ */

#define WIRE_HELLO_SIZE	 40
#define WIRE_ANSWER_SIZE 16

enum wire_channel {
	WIRE_CHANNEL_MAIN,
	WIRE_CHANNEL_DATA,
	WIRE_CHANNEL_POSTCOPY, /* pages that the guest waits for */
};

#define WIRE_HELLO_POSTCOPY 1u /* the session has a connection for requested pages */
#define WIRE_HELLO_RESUME   2u /* the session existed before and lost its connections */

struct wire_hello {
	enum wire_channel channel;
	uint32_t flags; /* WIRE_HELLO_* */
	uint8_t session[WIRE_SESSION_SIZE];
	uint16_t index; /* of a data connection, from 0; 0 otherwise */
	uint16_t count; /* data connections of the session */
};

enum wire_status {
	WIRE_STATUS_OK,
	WIRE_STATUS_VERSION, /* the answer says which one is spoken */
	WIRE_STATUS_SESSION, /* another session is under way, or there is none to go on with */
	WIRE_STATUS_CHANNEL, /* it is there already, or nobody expects it */
	WIRE_STATUS_MALFORMED,
};

void wire_put_hello(uint8_t bytes[WIRE_HELLO_SIZE], const struct wire_hello *hello);
/* @status: what to answer, also when this is no error. */
struct error *wire_get_hello(const uint8_t bytes[WIRE_HELLO_SIZE], struct wire_hello *hello,
			     enum wire_status *status) MUST_CHECK;
void wire_put_answer(uint8_t bytes[WIRE_ANSWER_SIZE], enum wire_status status);
/* No error: the connection was accepted. */
struct error *wire_get_answer(const uint8_t bytes[WIRE_ANSWER_SIZE]) MUST_CHECK;

/* --- Records of data connections --------------------------------------------------------------- */

#define WIRE_RECORD_SIZE  80 /* of every kind; what belongs to it follows */
#define WIRE_PAGE	  4096
#define WIRE_WINDOW_PAGES 256 /* guest memory that one record can be about */
#define WIRE_WINDOW_WORDS (WIRE_WINDOW_PAGES / 64)
#define WIRE_WINDOW_SIZE  (WIRE_WINDOW_PAGES * WIRE_PAGE)
#define WIRE_CHUNK_MAX	  (128 << 10) /* bytes of device state in one record */

enum wire_record_kind {
	WIRE_RECORD_RAM = 1,
	WIRE_RECORD_DEVICE,
	WIRE_RECORD_BARRIER,
	WIRE_RECORD_END,
};

#define WIRE_RAM_ZSTD	 1u /* what follows is one zstd frame of the pages' content */
#define WIRE_DEVICE_LAST 1u /* the device's state ends with this chunk */

struct wire_record {
	enum wire_record_kind kind;
	uint8_t flags;
	uint32_t length; /* bytes that follow */
	union {
		struct {
			uint16_t block;	     /* in order of guest address, from 0 */
			uint64_t first_page; /* of the window: a multiple of WIRE_WINDOW_PAGES */
			/* Bit n: the window's n-th page has its content in what follows. */
			uint64_t content[WIRE_WINDOW_WORDS];
			uint64_t zero[WIRE_WINDOW_WORDS]; /* likewise: it is zeros */
			uint32_t pages;			  /* bits in content; not on the wire */
		} ram;
		struct {
			uint32_t device; /* in the list both ends have agreed on, from 0 */
			uint32_t index;	 /* of the chunk, from 0 */
		} device;
		uint64_t round; /* that ends: from 1 */
	};
};

void wire_put_record(uint8_t bytes[WIRE_RECORD_SIZE], const struct wire_record *record);
/*
 * After it: length is right for the pages, or at most WIRE_CHUNK_MAX; no page is both content and
 * zero; a RAM record has a page at least, and a chunk that is not the last a byte.
 */
struct error *wire_get_record(const uint8_t bytes[WIRE_RECORD_SIZE],
			      struct wire_record *record) MUST_CHECK;

/* --- Frames of the main connection ------------------------------------------------------------- */

#define WIRE_FRAME_SIZE	  8	     /* type 2, flags 2, length 4; the payload follows */
#define WIRE_CONFIG_MAX	  (16 << 20) /* bytes of a configuration */
#define WIRE_TEXT_MAX	  4096
#define WIRE_BITMAP_WORDS 4096			       /* in one frame: a part of a longer bitmap */
#define WIRE_SMALL_MAX	  (16 + 8 * WIRE_BITMAP_WORDS) /* bytes of every payload but CONFIG's */

enum migration_message_type {
	MIGRATION_CONFIG = 1,	   /* source: the machine, as JSON */
	MIGRATION_ACCEPT,	   /* destination: it can be taken */
	MIGRATION_REFUSE,	   /* destination: it cannot, and why */
	MIGRATION_ROUND_END,	   /* source: what data connections carry as a barrier */
	MIGRATION_STATE_CREDIT,	   /* destination: what one device may send in all */
	MIGRATION_SWITCH_BEGIN,	   /* source: the guest has stopped */
	MIGRATION_LOADED,	   /* destination: everything is here and loaded; I do not run */
	MIGRATION_GO,		   /* source: I have given up, and run only if you say REJECTED */
	MIGRATION_RUNNING,	   /* destination: and all pages are here */
	MIGRATION_RUNNING_LACKING, /* destination: I run, pages are still to come */
	MIGRATION_REJECTED,	   /* destination: I do not run (handover.h) */
	MIGRATION_PAGE_REQUEST,	   /* destination: the guest waits for these */
	MIGRATION_RECEIVED,	   /* destination: pages that have arrived */
	MIGRATION_PENDING,	   /* source: pages that are still to come */
	MIGRATION_PLUGGED,	   /* source: units of an elastic block that are plugged */
	MIGRATION_PING,
	MIGRATION_PONG,
	MIGRATION_ABORT, /* either: it is over, and why */
	MIGRATION_DONE,	 /* destination: how it went */
	MIGRATION_MESSAGE_TYPES,
};

/* What the destination has counted. */
struct migration_done {
	uint64_t pages, zero_pages; /* that came with content, and as zeros */
	uint64_t bytes;		    /* on all data connections */
	uint64_t state_bytes;
	uint64_t load_ns;   /* from SWITCH_BEGIN to LOADED */
	uint64_t resume_ns; /* from GO to RUNNING */
};

struct migration_message {
	enum migration_message_type type;
	union {
		struct {		  /* CONFIG, REFUSE, ABORT; valid UTF-8 is not checked */
			const char *text; /* not terminated; without control characters but \n \t */
			size_t size;	  /* bytes */
		};
		uint64_t round; /* ROUND_END: from 1 */
		uint64_t value; /* PING, PONG: any */
		struct {
			uint32_t device;
			uint32_t indexes; /* chunks with a lower index may be sent */
			uint64_t bytes;	  /* of all chunks together */
		} credit;
		struct { /* PAGE_REQUEST */
			uint16_t block;
			uint32_t count; /* pages, at least 1 */
			uint64_t first; /* page */
		} request;
		struct { /* RECEIVED, PENDING, PLUGGED */
			uint16_t block;
			uint32_t words;	      /* 1 to WIRE_BITMAP_WORDS */
			uint64_t first;	      /* word in the block's bitmap */
			const uint8_t *bytes; /* wire_bitmap_word; when sending wire_put_bitmap */
		} bitmap;
		struct migration_done done;
	};
};

/* "SWITCH_BEGIN" … for logs and messages. */
const char *migration_message_name(enum migration_message_type type);

/* Whether the source (the destination) may send @type. */
bool migration_message_is_from(enum migration_message_type type, bool source);

/*
 * The frame's head for @message, and the payload except a text or a bitmap's words, which follow
 * from where they are. Returns the bytes written, at most WIRE_PAYLOAD_MAX + WIRE_FRAME_SIZE.
 */
#define WIRE_PAYLOAD_MAX 48
size_t wire_put_message(uint8_t bytes[WIRE_FRAME_SIZE + WIRE_PAYLOAD_MAX],
			const struct migration_message *message);
/* @length: of the payload, within what the type allows. */
struct error *wire_get_frame(const uint8_t bytes[WIRE_FRAME_SIZE],
			     enum migration_message_type *type, uint32_t *length) MUST_CHECK;
/* @message points into @payload. */
struct error *wire_get_message(enum migration_message_type type, const uint8_t *payload,
			       uint32_t length, struct migration_message *message) MUST_CHECK;

/* Word @index of a bitmap message, and @words of a bitmap as they are sent. */
uint64_t wire_bitmap_word(const struct migration_message *message, uint32_t index);
void wire_put_bitmap(uint8_t *bytes, const uint64_t *words, uint32_t count);

#endif
