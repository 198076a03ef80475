/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket: what a client sends, cut into pieces as a socket would, through the framer, the dispatcher and
 * the real command table, onto a machine without KVM. The first byte says how long the pieces are.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/control.h"
#include "control/qmp_framer.h"
#include "fake_machine.h"

struct client {
	struct control *control;
	struct qmp_session session;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(void *context, const char *text, size_t size)
{
	struct client *client = context;
	json_t *response =
	    qmp_dispatch(control_commands, client->control, &client->session, text, size);
	char *line;

	/* Whatever came, there is one answer of one of two shapes, and it can be sent. */
	assert(response);
	assert(!json_object_get(response, "return") != !json_object_get(response, "error"));
	line = json_dumps(response, JSON_COMPACT);
	assert(line);
	assert(!strchr(line, '\n'));
	free(line);
	json_decref(response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct client client = {.session.negotiated = true};
	struct qmp_framer framer = {};
	struct event_loop *loop;
	struct machine *machine;
	size_t piece;

	if (!size)
		return 0;
	piece = data[0] ? data[0] : size;
	if (event_loop_create(&loop) || control_create(loop, &client.control))
		abort();
	machine = fake_machine_create(loop, control_machine_event, client.control);
	client.control->machine = machine;
	for (size_t at = 1; at < size; at += piece)
		if (qmp_framer_feed(&framer, (const char *)data + at, MIN(piece, size - at), answer,
				    &client))
			break;
	qmp_framer_clear(&framer);
	control_close(client.control);
	fake_machine_destroy(machine);
	control_destroy(client.control);
	event_loop_destroy(loop);
	return 0;
}
