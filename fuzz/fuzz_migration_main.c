/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The main connection of a migration, from either end: whatever the other one says is refused with a
 * message, or is a message that makes sense. The input's first byte chooses the side; the rest is a
 * hello, an answer, and what a connection carries.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "fuzz_input.h"
#include "migration/link.h"
#include "migration/sender.h"

#define SIZE_MAX_INPUT (64 << 10) /* fits a socket's buffer */

static void check(struct error *error)
{
	assert(!error || error_message(error)[0]);
	error_free(error);
}

static void greet(struct fuzz_input *input)
{
	uint8_t hello[WIRE_HELLO_SIZE], answer[WIRE_ANSWER_SIZE], again[WIRE_HELLO_SIZE];
	struct wire_hello got;
	enum wire_status status;
	struct error *error;

	fuzz_take(input, hello, sizeof(hello));
	fuzz_take(input, answer, sizeof(answer));
	error = wire_get_hello(hello, &got, &status);
	assert(!error == (status == WIRE_STATUS_OK));
	if (!error) {
		wire_put_hello(again, &got);
		assert(memcmp(hello, again, sizeof(hello)) == 0);
	}
	check(error);
	check(wire_get_answer(answer));
}

static struct migration_link *open_link(enum migration_side side, const struct fuzz_input *input)
{
	struct transport *main, *data;
	struct migration_link *link;
	struct error *error;
	int ends[2], other[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, other) < 0)
		abort();
	if (input->left && write(ends[1], input->data, input->left) != (ssize_t)input->left)
		abort();
	close(ends[1]);
	close(other[1]);
	error = transport_adopt(ends[0], "main", &main);
	if (!error)
		error = transport_adopt(other[0], "data", &data);
	if (!error)
		error = migration_link_assemble(side, main, &data, 1, false, &link);
	if (error)
		abort();
	return link;
}

/* What a source does with it. */
static void use(struct migration_sender *sender, const struct migration_message *message)
{
	static uint64_t pending[16];

	if (message->type == MIGRATION_STATE_CREDIT)
		check(migration_sender_credit(sender, message));
	if (message->type == MIGRATION_PAGE_REQUEST)
		check(migration_sender_pages(sender, message->request.block, message->request.first,
					     message->request.count, pending));
}

static void receive(struct migration_link *link, struct migration_sender *sender)
{
	struct migration_message message;
	struct error *error;

	while (!(error = migration_link_receive(link, &message))) {
		switch (message.type) {
		case MIGRATION_CONFIG:
		case MIGRATION_REFUSE:
		case MIGRATION_ABORT:
			for (size_t i = 0; i < message.size; i++)
				assert(message.text[i] != 0x1b);
			break;
		case MIGRATION_RECEIVED:
		case MIGRATION_PENDING:
		case MIGRATION_PLUGGED:
			assert(message.bitmap.words && message.bitmap.words <= WIRE_BITMAP_WORDS);
			for (uint32_t i = 0; i < message.bitmap.words; i++)
				__asm__ volatile("" : : "r"(wire_bitmap_word(&message, i)));
			break;
		default:
			if (sender)
				use(sender, &message);
		}
	}
	check(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct memory_map *map;
	struct migration_sender_options options = {.devices = 4};
	struct fuzz_input input = {data, MIN(size, (size_t)SIZE_MAX_INPUT)};
	enum migration_side side =
	    fuzz_take8(&input) & 1 ? MIGRATION_SOURCE : MIGRATION_DESTINATION;
	struct migration_sender *sender = NULL;
	struct migration_link *link;

	if (!map && memory_map_create(&map))
		abort();
	greet(&input);
	link = open_link(side, &input);
	if (side == MIGRATION_SOURCE && migration_sender_create(link, map, &options, &sender))
		abort();
	receive(link, sender);
	migration_sender_destroy(sender);
	migration_link_close(link);
	return 0;
}
