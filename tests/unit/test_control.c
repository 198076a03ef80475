/* SPDX-License-Identifier: BSD-2-Clause */
/* The control of a VM from socket to machine: the server on its loop, clients on real sockets, a
 * fake machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/control.h"
#include "control/qmp_client.h"
#include "control/qmp_framer.h"
#include "control/qmp_server.h"
#include "fake_machine.h"

struct fixture {
	char directory[64];
	char path[80];
	struct event_loop *loop;
	struct control *control;
	struct machine *machine;
	struct qmp_client *client;
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	log_set_level(LOG_LEVEL_ERROR);
	strcpy(fixture->directory, "/tmp/godwit-test-XXXXXX");
	assert_non_null(mkdtemp(fixture->directory));
	snprintf(fixture->path, sizeof(fixture->path), "%s/vm.sock", fixture->directory);
	assert_null(event_loop_create(&fixture->loop));
	assert_null(control_create(fixture->loop, &fixture->control));
	fixture->machine =
	    fake_machine_create(fixture->loop, control_machine_event, fixture->control);
	assert_null(control_open(fixture->control, fixture->machine, fixture->path));
	assert_null(event_loop_start_thread(fixture->loop, "loop"));
	assert_null(qmp_client_connect(fixture->path, QMP_CLIENT_TIMEOUT_NS, &fixture->client));
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;

	qmp_client_close(fixture->client);
	event_loop_join(fixture->loop);
	control_close(fixture->control);
	fake_machine_destroy(fixture->machine);
	control_destroy(fixture->control);
	event_loop_destroy(fixture->loop);
	unlink(fixture->path);
	rmdir(fixture->directory);
	free(fixture);
	return 0;
}

/* Runs a command that must work and returns what it returned. */
static json_t *run(struct fixture *fixture, const char *command, json_t *arguments)
{
	json_t *result = NULL;
	struct error *error = qmp_client_execute(fixture->client, command, arguments, &result);

	if (error)
		fail_msg("%s: %s", command, error_message(error));
	return result;
}

static void check_refused(struct fixture *fixture, const char *command, json_t *arguments,
			  const char *part)
{
	struct error *error = qmp_client_execute(fixture->client, command, arguments, NULL);

	assert_non_null(error);
	if (!strstr(error_message(error), part))
		fail_msg("'%s' does not hold '%s'", error_message(error), part);
	error_free(error);
}

/* The next event named @name, whose data is returned. */
static json_t *wait_event(struct fixture *fixture, const char *name)
{
	for (;;) {
		json_t *event = NULL, *data;

		assert_null(qmp_client_next_event(fixture->client, 5 * NS_PER_SECOND, &event));
		if (!event)
			fail_msg("no event %s", name);
		if (strcmp(json_string_value(json_object_get(event, "event")), name) == 0) {
			data = json_incref(json_object_get(event, "data"));
			json_decref(event);
			return data;
		}
		json_decref(event);
	}
}

static int64_t integer(json_t *object, const char *key)
{
	assert_true(json_is_integer(json_object_get(object, key)));
	return json_integer_value(json_object_get(object, key));
}

static const char *string(json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int raw_connect(struct fixture *fixture)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, fixture->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void status_has_qemus_shape(void **state)
{
	json_t *status = run(*state, "query-status", NULL);

	assert_string_equal(string(status, "status"), "running");
	assert_true(json_is_true(json_object_get(status, "running")));
	json_decref(status);
}

static void stop_and_cont_change_the_state_and_tell(void **state)
{
	struct fixture *fixture = *state;
	json_t *status;

	json_decref(run(fixture, "stop", NULL));
	json_decref(wait_event(fixture, "STOP"));
	status = run(fixture, "query-status", NULL);
	assert_string_equal(string(status, "status"), "paused");
	json_decref(status);
	json_decref(run(fixture, "cont", NULL));
	json_decref(wait_event(fixture, "RESUME"));
}

static void machines_refusal_reaches_the_client(void **state)
{
	struct fixture *fixture = *state;

	fake(fixture->machine)->refuse_reset = true;
	check_refused(fixture, "system_reset", NULL, "the kernel file is gone");
}

static void quit_answers_and_tells_before_the_end(void **state)
{
	struct fixture *fixture = *state;
	json_t *data;

	json_decref(run(fixture, "quit", NULL));
	data = wait_event(fixture, "SHUTDOWN");
	assert_string_equal(string(data, "reason"), "host-qmp-quit");
	assert_int_equal(fake(fixture->machine)->shutdowns, 1);
	json_decref(data);
}

static void memory_devices_have_qemus_shape(void **state)
{
	json_t *list = run(*state, "query-memory-devices", NULL);
	json_t *device = json_array_get(list, 0);
	json_t *data = json_object_get(device, "data");

	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(string(device, "type"), "virtio-mem");
	assert_string_equal(string(data, "id"), "hot0");
	assert_string_equal(string(data, "memdev"), "/objects/hot0");
	assert_int_equal(integer(data, "memaddr"), GIB(4));
	assert_int_equal(integer(data, "max-size"), GIB(1));
	assert_int_equal(integer(data, "block-size"), MIB(2));
	assert_int_equal(integer(data, "requested-size"), 0);
	assert_int_equal(integer(data, "size"), 0);
	assert_int_equal(integer(data, "node"), 0);
	json_decref(list);
}

static void qom_set_requests_and_qom_get_reads(void **state)
{
	struct fixture *fixture = *state;
	json_t *value;

	json_decref(run(fixture, "qom-set",
			json_pack("{s:s,s:s,s:I}", "path", "/machine/peripheral/hot0", "property",
				  "requested-size", "value", (json_int_t)MIB(64))));
	value = run(fixture, "qom-get",
		    json_pack("{s:s,s:s}", "path", "hot0", "property", "requested-size"));
	assert_int_equal(json_integer_value(value), MIB(64));
	json_decref(value);
	value = run(fixture, "qom-get",
		    json_pack("{s:s,s:s}", "path", "/machine/peripheral/hot0", "property", "size"));
	assert_int_equal(json_integer_value(value), 0);
	json_decref(value);
}

static void qom_set_of_anything_else_is_refused(void **state)
{
	check_refused(*state, "qom-set",
		      json_pack("{s:s,s:s,s:i}", "path", "hot0", "property", "size", "value", 1),
		      "only requested-size");
	check_refused(
	    *state, "qom-set",
	    json_pack("{s:s,s:s,s:s}", "path", "hot0", "property", "requested-size", "value", "1"),
	    "whole number");
}

static void unknown_elastic_device_is_refused_with_the_known(void **state)
{
	check_refused(*state, "godwit-resize", json_pack("{s:s,s:i}", "id", "hot9", "size", 0),
		      "this machine has hot0, hot1");
}

static void automatic_device_is_not_resized_by_hand(void **state)
{
	check_refused(*state, "godwit-resize", json_pack("{s:s,s:i}", "id", "hot1", "size", 0),
		      "auto=");
}

struct plug {
	struct machine *machine;
	uint64_t size;
};

static void plug_on_loop(void *context)
{
	struct plug *plug = context;

	fake_guest_plugs(plug->machine, 0, plug->size);
}

static void wait_concluded(struct fixture *fixture)
{
	bool concluded = false;

	while (!concluded) {
		json_t *data = wait_event(fixture, "JOB_STATUS_CHANGE");

		concluded = strcmp(string(data, "status"), "concluded") == 0;
		json_decref(data);
	}
}

static void resize_is_a_job_that_ends_with_an_event(void **state)
{
	struct fixture *fixture = *state;
	struct plug plug = {fixture->machine, MIB(64)};
	json_t *result, *data;

	result = run(
	    fixture, "godwit-resize",
	    json_pack("{s:s,s:I,s:s}", "id", "hot0", "size", (json_int_t)MIB(64), "job-id", "j"));
	assert_string_equal(string(result, "job"), "j");
	json_decref(result);
	event_loop_call(fixture->loop, plug_on_loop, &plug);
	data = wait_event(fixture, "MEMORY_DEVICE_SIZE_CHANGE");
	assert_int_equal(integer(data, "size"), MIB(64));
	json_decref(data);
	wait_concluded(fixture);
	result = run(fixture, "query-jobs", NULL);
	assert_string_equal(string(json_array_get(result, 0), "status"), "concluded");
	json_decref(result);
	json_decref(run(fixture, "job-dismiss", json_pack("{s:s}", "id", "j")));
}

static void reason_is_noticed_without_an_event(void **state)
{
	struct fixture *fixture = *state;
	json_decref(run(fixture, "godwit-resize",
			json_pack("{s:s,s:I}", "id", "hot0", "size", (json_int_t)MIB(64))));
	/* Behind the machine's back: only the timer can see it. */
	__atomic_store_n(&fake(fixture->machine)->elastic[0].status.plugged, MIB(64),
			 __ATOMIC_SEQ_CST);
	wait_concluded(fixture);
}

static void memory_report_adds_up(void **state)
{
	struct fixture *fixture = *state;
	json_t *memory, *region, *vmm;

	memset(fake(fixture->machine)->boot->host, 1, MIB(8));
	memory = run(fixture, "godwit-memory", NULL);
	region = json_array_get(json_object_get(memory, "regions"), 0);
	assert_string_equal(string(region, "id"), "memory0");
	assert_string_equal(string(region, "kind"), "boot");
	assert_int_equal(integer(region, "size"), MIB(16));
	assert_int_equal(integer(region, "plugged"), MIB(16));
	assert_true(integer(region, "resident") >= (int64_t)MIB(8));
	vmm = json_object_get(memory, "vmm");
	/* What the guest holds is not ours. */
	assert_true(integer(vmm, "private") <= integer(vmm, "resident"));
	assert_int_equal(integer(json_object_get(memory, "summary"), "boot"), MIB(16));
	assert_int_equal(integer(json_object_get(memory, "slots"), "maximum"), 509);
	json_decref(memory);
}

static void statistics_hold_what_a_live_view_needs(void **state)
{
	json_t *statistics = run(*state, "godwit-statistics", NULL);

	assert_string_equal(string(statistics, "name"), "fake");
	assert_int_equal(json_array_size(json_object_get(statistics, "cpus")), 2);
	assert_int_equal(json_array_size(json_object_get(statistics, "elastic")), 2);
	assert_int_equal(integer(json_object_get(statistics, "memory"), "maximum"), GIB(2));
	assert_int_equal(integer(statistics, "clients"), 1);
	json_decref(statistics);
}

static void every_listed_command_is_known(void **state)
{
	json_t *list = run(*state, "query-commands", NULL);
	json_t *item;
	size_t index;

	assert_true(json_array_size(list) > 15);
	json_array_foreach (list, index, item) {
		const char *name = string(item, "name");
		struct error *error;

		if (strcmp(name, "quit") == 0)
			continue;
		/* An argument nobody has: refused by the schema, so the command is there and does
		 * not run. */
		error = qmp_client_execute(((struct fixture *)*state)->client, name,
					   json_pack("{s:i}", "no-such-argument", 1), NULL);
		assert_non_null(error);
		if (strcmp(name, "qmp_capabilities") != 0)
			assert_non_null(strstr(error_message(error), "no-such-argument"));
		error_free(error);
	}
	json_decref(list);
}

static void several_clients_hear_events(void **state)
{
	struct fixture *fixture = *state;
	struct qmp_client *other = NULL;
	json_t *event = NULL;

	assert_null(qmp_client_connect(fixture->path, QMP_CLIENT_TIMEOUT_NS, &other));
	json_decref(run(fixture, "stop", NULL));
	json_decref(wait_event(fixture, "STOP"));
	assert_null(qmp_client_next_event(other, 5 * NS_PER_SECOND, &event));
	assert_string_equal(string(event, "event"), "STOP");
	json_decref(event);
	qmp_client_close(other);
}

static void client_that_has_not_negotiated_hears_nothing(void **state)
{
	struct fixture *fixture = *state;
	int fd = raw_connect(fixture);
	char buffer[1024];

	assert_true(recv(fd, buffer, sizeof(buffer), 0) > 0); /* the greeting */
	json_decref(run(fixture, "stop", NULL));
	json_decref(wait_event(fixture, "STOP"));
	assert_int_equal(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT), -1);
	close(fd);
}

static void half_closed_client_still_gets_its_answer(void **state)
{
	struct fixture *fixture = *state;
	const char *text = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-name\"}";
	int fd = raw_connect(fixture);
	char buffer[4096] = "";
	size_t used = 0;
	ssize_t got;

	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	shutdown(fd, SHUT_WR);
	while ((got = recv(fd, buffer + used, sizeof(buffer) - 1 - used, 0)) > 0)
		used += (size_t)got;
	assert_int_equal(got, 0);
	assert_non_null(strstr(buffer, "\"fake\""));
	close(fd);
}

static void emit_many(void *context)
{
	struct fixture *fixture = context;
	char text[1000];

	memset(text, 'x', sizeof(text));
	for (int i = 0; i < 4000; i++)
		fake_event(fixture->machine, "POWERDOWN",
			   json_pack("{s:s%}", "text", text, (size_t)999));
}

static void client_that_does_not_read_is_dropped(void **state)
{
	struct fixture *fixture = *state;
	const char *text = "{\"execute\":\"qmp_capabilities\"}";
	int fd = raw_connect(fixture);
	char buffer[4096] = "";
	ssize_t got;

	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	/* Greeting and answer: from here on it gets events. */
	for (size_t used = 0; used < sizeof(buffer) - 1 && !strstr(buffer, "return");
	     used += (size_t)got) {
		got = recv(fd, buffer + used, sizeof(buffer) - 1 - used, 0);
		assert_true(got > 0);
	}
	event_loop_call(fixture->loop, emit_many, fixture);
	while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		;
	assert_int_equal(got, 0);
	close(fd);
}

static void endless_message_ends_the_connection(void **state)
{
	struct fixture *fixture = *state;
	int fd = raw_connect(fixture);
	char block[4096];
	ssize_t sent = 1;

	memset(block, '[', sizeof(block));
	for (int i = 0; i < 2 * QMP_MESSAGE_MAX / 4096 && sent > 0; i++)
		sent = send(fd, block, sizeof(block), MSG_NOSIGNAL);
	assert_int_equal(sent, -1);
	close(fd);
	json_decref(run(fixture, "query-name", NULL)); /* others are not bothered */
}

static void clients_beyond_the_limit_are_refused(void **state)
{
	struct fixture *fixture = *state;
	int fds[QMP_CLIENTS_MAX];
	char buffer[1024];

	for (int i = 0; i < QMP_CLIENTS_MAX; i++)
		fds[i] = raw_connect(fixture);
	for (int i = 0; i < QMP_CLIENTS_MAX - 1; i++)
		assert_true(recv(fds[i], buffer, sizeof(buffer), 0) > 0);
	assert_int_equal(recv(fds[QMP_CLIENTS_MAX - 1], buffer, sizeof(buffer), 0), 0);
	for (int i = 0; i < QMP_CLIENTS_MAX; i++)
		close(fds[i]);
	json_decref(run(fixture, "query-name", NULL));
}

static void socket_is_for_its_owner_only(void **state)
{
	struct fixture *fixture = *state;
	struct stat status;

	assert_int_equal(stat(fixture->path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(status_has_qemus_shape),
	    TEST(stop_and_cont_change_the_state_and_tell),
	    TEST(machines_refusal_reaches_the_client),
	    TEST(quit_answers_and_tells_before_the_end),
	    TEST(memory_devices_have_qemus_shape),
	    TEST(qom_set_requests_and_qom_get_reads),
	    TEST(qom_set_of_anything_else_is_refused),
	    TEST(unknown_elastic_device_is_refused_with_the_known),
	    TEST(automatic_device_is_not_resized_by_hand),
	    TEST(resize_is_a_job_that_ends_with_an_event),
	    TEST(reason_is_noticed_without_an_event),
	    TEST(memory_report_adds_up),
	    TEST(statistics_hold_what_a_live_view_needs),
	    TEST(every_listed_command_is_known),
	    TEST(several_clients_hear_events),
	    TEST(client_that_has_not_negotiated_hears_nothing),
	    TEST(half_closed_client_still_gets_its_answer),
	    TEST(client_that_does_not_read_is_dropped),
	    TEST(endless_message_ends_the_connection),
	    TEST(clients_beyond_the_limit_are_refused),
	    TEST(socket_is_for_its_owner_only),
	};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
