/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-vsock from its creation over resets, pauses and moves to its end. */
#include "vsock_fixture.h"

/* --- Life cycle --- */

static void a_reset_closes_all_connections(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	driver_set_status(&vsock.driver, 0);
	expect_end(fd);
	assert_int_equal(connections(&vsock), 0);
	close(fd);
	driver_start(&vsock.driver, 0);
	vsock.received = 0;
	offer_buffers(&vsock, 0, 4);
	fd = guest_connects(&vsock);
	assert_true(fd >= 0);
	close(fd);
	teardown(&vsock);
}

static void a_paused_device_keeps_what_comes_for_later(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	fd = guest_connects(&vsock);
	virtio_device_quiesce(vsock.driver.device);
	assert_int_equal(send(fd, "later", 5, 0), 5);
	close(fd); /* a hang-up during the pause */
	expect_silence(&vsock);
	virtio_device_resume(vsock.driver.device);
	assert_int_equal(next_packet(&vsock, NULL).size, 5);
	assert_int_equal(next_packet(&vsock, NULL).flags, VSOCK_SHUTDOWN_BOTH);
	teardown(&vsock);
}

static void without_a_driver_programs_are_disconnected(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	driver_set_status(&vsock.driver, 0);
	fd = unix_socket(vsock.path, false);
	expect_end(fd);
	close(fd);
	teardown(&vsock);
}

static void the_configuration_is_the_cid(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	assert_int_equal(driver_read_config(&vsock.driver, 0, 8), CID);
	teardown(&vsock);
}

static void expect_refusal(const char *text, const char *reason)
{
	struct virtio_device *device = NULL;
	struct error *error = virtio_vsock_create(text, &device);

	assert_non_null(error);
	if (!strstr(error_message(error), reason))
		fail_msg("'%s' does not say '%s'", error_message(error), reason);
	error_free(error);
}

static void bad_options_are_refused_by_name(void **state)
{
	char text[300];

	expect_refusal("path=/tmp/x", "cid");
	expect_refusal("cid=2,path=/tmp/x", "cid");
	expect_refusal("cid=4294967295,path=/tmp/x", "cid");
	expect_refusal("cid=3", "path");
	expect_refusal("cid=3,path=/tmp/x,colour=red", "colour");
	expect_refusal("cid=3,path=/nonexistent/x", "/nonexistent/x");
	snprintf(text, sizeof(text), "cid=3,path=/%0200d", 0);
	expect_refusal(text, "path");
}

static void a_socket_left_behind_is_replaced_and_a_used_one_is_not(void **state)
{
	struct virtio_device *device;
	char path[40], text[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/godwit-vsock-left-%d", getpid());
	snprintf(text, sizeof(text), "cid=3,path=%s", path);
	fd = unix_socket(path, true);
	expect_refusal(text, "another program");
	close(fd);
	driver_no_error(virtio_vsock_create(text, &device));
	virtio_device_destroy(device);
	assert_int_equal(access(path, F_OK), -1);
}

static void move_host(struct vsock *vsock)
{
	struct virtio_device *fresh;
	char text[128];

	/* The old one goes with its socket first; here they must not meet. */
	snprintf(text, sizeof(text), "cid=%d,path=%s%u", CID, vsock->path, ++vsock->moves);
	driver_no_error(virtio_vsock_create(text, &fresh));
	move_to_device(&vsock->driver, fresh);
}

#define EVENT 0x600000

static void offer_event_buffer(struct vsock *vsock)
{
	memset(vsock->driver.ram + EVENT, 0xff, 8);
	driver_offer(&vsock->driver, VSOCK_QUEUE_EVENT, &(struct driver_buffer){EVENT, 4, true}, 1);
	driver_notify(&vsock->driver, VSOCK_QUEUE_EVENT);
}

static void a_load_ends_connections_and_says_so(void **state)
{
	struct vsock vsock;
	int fd;

	setup(&vsock);
	offer_event_buffer(&vsock);
	fd = guest_connects(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	move_host(&vsock);
	assert_int_equal(driver_wait(&vsock.driver, VSOCK_QUEUE_EVENT, NULL), 4);
	assert_int_equal(get_le32(vsock.driver.ram + EVENT), 0);
	expect_end(fd);
	close(fd);
	/* What the guest still sends on it is reset. */
	send_data(&vsock, "lost", 4);
	expect(&vsock, VSOCK_OP_RST);
	expect_silence(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	teardown(&vsock);
}

static void a_transport_reset_waits_for_a_buffer(void **state)
{
	struct vsock vsock;

	setup(&vsock);
	move_host(&vsock);
	move_host(&vsock);
	offer_event_buffer(&vsock);
	assert_int_equal(driver_wait(&vsock.driver, VSOCK_QUEUE_EVENT, NULL), 4);
	assert_int_equal(get_le32(vsock.driver.ram + EVENT), 0);
	offer_event_buffer(&vsock);
	assert_false(driver_used(&vsock.driver, VSOCK_QUEUE_EVENT));
	teardown(&vsock);
}

static void answers_that_wait_for_buffers_are_kept(void **state)
{
	struct vsock vsock;

	setup_without_buffers(&vsock, 0);
	send_data(&vsock, "?", 1);
	send_data(&vsock, "?", 1);
	move_host(&vsock);
	offer_buffers(&vsock, 0, 4);
	expect(&vsock, VSOCK_OP_RST);
	expect(&vsock, VSOCK_OP_RST);
	expect_silence(&vsock);
	teardown(&vsock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_reset_closes_all_connections),
	    cmocka_unit_test(a_paused_device_keeps_what_comes_for_later),
	    cmocka_unit_test(without_a_driver_programs_are_disconnected),
	    cmocka_unit_test(the_configuration_is_the_cid),
	    cmocka_unit_test(bad_options_are_refused_by_name),
	    cmocka_unit_test(a_socket_left_behind_is_replaced_and_a_used_one_is_not),
	    cmocka_unit_test(a_load_ends_connections_and_says_so),
	    cmocka_unit_test(a_transport_reset_waits_for_a_buffer),
	    cmocka_unit_test(answers_that_wait_for_buffers_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
