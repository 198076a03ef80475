/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real tap interfaces, in a network namespace of the test's own. Skipped where that is not allowed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "virtio/handed.h"
#include "virtio/net.h"
#include "virtio/net_control.h"
#include "virtio/net_header.h"
#include "virtio_driver.h"

#define BIT(n)	VIRTIO_FEATURE(n)
#define BUFFERS 0x100000
#define FRAME	0x400000
#define SIZE	(NET_HEADER_SIZE + 100)

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};
static bool allowed;

static int enter_namespace(void **state)
{
	int fd = unshare(CLONE_NEWNET) ? -1 : open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	allowed = fd >= 0;
	if (allowed)
		close(fd);
	return 0;
}

#define NEED_TAP()                                                                                 \
	do {                                                                                       \
		if (!allowed)                                                                      \
			skip();                                                                    \
	} while (0)

static void expect_refusal(struct error *error, const char *reason)
{
	assert_non_null(error);
	if (!strstr(error_message(error), reason))
		fail_msg("'%s' does not say '%s'", error_message(error), reason);
	error_free(error);
}

static void interface_ioctl(unsigned long request, struct ifreq *interface)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_int_equal(ioctl(fd, request, interface), 0);
	close(fd);
}

static void bring_up(const char *name)
{
	struct ifreq interface = {0};

	strcpy(interface.ifr_name, name);
	interface_ioctl(SIOCGIFFLAGS, &interface);
	interface.ifr_flags |= IFF_UP;
	interface_ioctl(SIOCSIFFLAGS, &interface);
}

/* --- Interfaces --- */

static void the_kernel_names_an_interface(void **state)
{
	struct tap tap;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "", 1));
	assert_true(if_nametoindex(tap.name) > 0);
	tap_close(&tap);
	assert_int_equal(if_nametoindex(tap.name), 0);
}

static void the_usual_offloads_are_known(void **state)
{
	struct tap tap;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "offloads", 1));
	assert_true(tap.offloads & TUN_F_TSO4 && tap.offloads & TUN_F_CSUM);
	assert_int_equal(tap_set_offloads(&tap, tap.offloads), 0);
	assert_int_equal(tap_set_offloads(&tap, 0), 0);
	tap_close(&tap);
}

static void an_interface_in_use_is_refused(void **state)
{
	struct tap tap, second;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "busy", 1));
	expect_refusal(tap_open(&second, "busy", 1), "in use");
	tap_close(&tap);
}

static void another_kind_of_interface_is_refused(void **state)
{
	struct tap tap;

	NEED_TAP();
	expect_refusal(tap_open(&tap, "lo", 1), "another kind");
}

static void an_interface_for_several_queues_serves_one(void **state)
{
	struct tap tap, one;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "several", 3));
	assert_int_equal(ioctl(tap.fds[0], TUNSETPERSIST, 1), 0);
	tap_close(&tap);
	driver_no_error(tap_open(&one, "several", 1));
	assert_true(one.multi_queue);
	assert_int_equal(ioctl(one.fds[0], TUNSETPERSIST, 0), 0);
	tap_close(&one);
}

static void an_interface_for_one_queue_does_not_serve_several(void **state)
{
	struct tap tap, several;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "single", 1));
	assert_int_equal(ioctl(tap.fds[0], TUNSETPERSIST, 1), 0);
	expect_refusal(tap_open(&several, "single", 2), "multi_queue");
	assert_int_equal(ioctl(tap.fds[0], TUNSETPERSIST, 0), 0);
	tap_close(&tap);
}

static void queues_are_detached_and_attached(void **state)
{
	struct tap tap;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "queues", 3));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tap_attach_queue(&tap, 2, false), 0);
		assert_int_equal(tap_attach_queue(&tap, 2, false), 0);
		assert_int_equal(tap_attach_queue(&tap, 2, true), 0);
		assert_int_equal(tap_attach_queue(&tap, 2, true), 0);
	}
	tap_close(&tap);
}

static void the_mtu_is_set(void **state)
{
	struct ifreq interface = {.ifr_name = "mtu"};
	struct tap tap;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "mtu", 1));
	driver_no_error(tap_set_mtu(&tap, 9000));
	interface_ioctl(SIOCGIFMTU, &interface);
	assert_int_equal(interface.ifr_mtu, 9000);
	tap_close(&tap);
}

/* Whether a frame to @destination that is sent on "left" reaches @fd. */
static bool passes(int fd, const uint8_t destination[6])
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
				      .sll_ifindex = (int)if_nametoindex("left")};
	int neighbour = socket(AF_PACKET, SOCK_RAW, 0);
	uint8_t frame[64] = {0}, got[2048];
	bool found = false;

	memcpy(frame, destination, 6);
	put_be16(frame + 12, ETH_P_802_EX1);
	assert_int_equal(sendto(neighbour, frame, sizeof(frame), 0, (struct sockaddr *)&address,
				sizeof(address)),
			 sizeof(frame));
	close(neighbour);
	while (read(fd, got, sizeof(got)) > 0)
		found |= memcmp(got + NET_HEADER_SIZE, frame, sizeof(frame)) == 0;
	return found;
}

static void a_persistent_interface_is_left_without_a_filter(void **state)
{
	static const uint8_t other[6] = {2, 0, 0, 0, 0, 9};
	struct tap tap;

	NEED_TAP();
	driver_no_error(tap_open(&tap, "left", 1));
	bring_up("left");
	assert_int_equal(ioctl(tap.fds[0], TUNSETPERSIST, 1), 0);
	assert_int_equal(tap_set_filter(&tap, &own_mac, 1, false), 0);
	assert_false(passes(tap.fds[0], other));
	tap_close(&tap);
	driver_no_error(tap_open(&tap, "left", 1));
	assert_true(passes(tap.fds[0], other));
	assert_int_equal(ioctl(tap.fds[0], TUNSETPERSIST, 0), 0);
	tap_close(&tap);
}

/* --- Another process that goes on with it, which here is in the same one --- */

static bool sends_segments(const char *name)
{
	struct ethtool_value value = {.cmd = ETHTOOL_GTSO};
	struct ifreq interface = {.ifr_data = (char *)&value};

	strcpy(interface.ifr_name, name);
	interface_ioctl(SIOCETHTOOL, &interface);
	return value.data;
}

/* What the new one gets, with descriptors of its own. */
static void hand(struct tap *old, struct tap *new)
{
	json_t *handed = json_object();
	int fds[TAP_QUEUES_MAX];

	tap_share(old, handed);
	for (uint32_t i = 0; i < old->queue_count; i++)
		fds[i] = dup(old->fds[i]);
	handed_put_list(handed, "queues", fds, old->queue_count);
	driver_no_error(tap_adopt(new, handed));
	json_decref(handed);
}

static void open_busy(struct tap *tap, uint32_t queues)
{
	driver_no_error(tap_open(tap, "handed", queues));
	assert_int_equal(tap_set_offloads(tap, TUN_F_CSUM | TUN_F_TSO4), 0);
	assert_true(sends_segments("handed"));
}

static void an_interface_goes_on_in_another_process(void **state)
{
	struct tap old, new;

	NEED_TAP();
	open_busy(&old, 2);
	hand(&old, &new);
	assert_int_equal(new.queue_count, 2);
	assert_int_equal(new.offloads, old.offloads);
	assert_true(new.multi_queue);
	/* It is not its own yet. */
	assert_int_equal(tap_set_offloads(&new, 0), 0);
	assert_true(sends_segments("handed"));
	tap_release(&old);
	tap_take_over(&new);
	tap_close(&old);
	assert_true(sends_segments("handed"));
	assert_int_equal(tap_set_offloads(&new, 0), 0);
	assert_false(sends_segments("handed"));
	tap_close(&new);
	assert_int_equal(if_nametoindex("handed"), 0);
}

static void a_process_that_does_not_take_an_interface_changes_nothing(void **state)
{
	struct tap old, new;

	NEED_TAP();
	open_busy(&old, 1);
	hand(&old, &new);
	tap_release(&old);
	tap_close(&new);
	tap_take_over(&old);
	assert_true(sends_segments("handed"));
	assert_int_equal(tap_set_offloads(&old, 0), 0);
	assert_false(sends_segments("handed"));
	tap_close(&old);
}

/* --- A device, with a packet socket as its neighbour --- */

struct net {
	struct driver driver;
	int neighbour;
};

static void setup(struct net *net, uint64_t features)
{
	struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
				      .sll_protocol = htons(ETH_P_802_EX1)};
	struct virtio_device *device;

	driver_no_error(virtio_net_create("tap:device,mac=52:54:00:01:02:03", "vm", 0, &device));
	bring_up("device");
	net->neighbour = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_802_EX1));
	address.sll_ifindex = (int)if_nametoindex("device");
	assert_int_equal(bind(net->neighbour, (struct sockaddr *)&address, sizeof(address)), 0);
	driver_create_memory(&net->driver, &anonymous);
	driver_add_device(&net->driver, device);
	driver_start(&net->driver, features);
	for (unsigned int i = 0; i < 8; i++)
		driver_offer(&net->driver, 0,
			     &(struct driver_buffer){BUFFERS + i * 0x1000, 0x1000, true}, 1);
	driver_notify(&net->driver, 0);
}

static void teardown(struct net *net)
{
	driver_destroy(&net->driver);
	close(net->neighbour);
}

/* A frame of an experimental protocol, so that the kernel's own traffic is not mistaken for it. */
static void make_frame(uint8_t *frame, const uint8_t destination[6])
{
	memcpy(frame, destination, 6);
	memcpy(frame + 6, (const uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
	put_be16(frame + 12, ETH_P_802_EX1);
	for (int i = 14; i < SIZE - NET_HEADER_SIZE; i++)
		frame[i] = (uint8_t)i;
}

/* The next frame of the neighbour's protocol that the guest got, or NULL. */
static const uint8_t *guest_receives(struct net *net)
{
	for (int i = 0; i < 200; i++) {
		const uint8_t *packet;
		uint16_t head;

		if (!driver_used(&net->driver, 0)) {
			usleep(1000);
			continue;
		}
		driver_wait(&net->driver, 0, &head);
		packet = net->driver.ram + BUFFERS + head * 0x1000;
		if (get_be16(packet + NET_HEADER_SIZE + 12) == ETH_P_802_EX1)
			return packet;
	}
	return NULL;
}

static void frames_go_both_ways(void **state)
{
	uint8_t frame[SIZE - NET_HEADER_SIZE], got[2048];
	const uint8_t *packet;
	struct pollfd ready;
	struct net net;

	NEED_TAP();
	setup(&net, 0);
	make_frame(frame, own_mac);
	assert_int_equal(send(net.neighbour, frame, sizeof(frame), 0), sizeof(frame));
	packet = guest_receives(&net);
	assert_non_null(packet);
	assert_int_equal(get_le16(packet + NET_HEADER_NUM_BUFFERS), 1);
	assert_memory_equal(packet + NET_HEADER_SIZE, frame, sizeof(frame));

	memset(net.driver.ram + FRAME, 0, NET_HEADER_SIZE);
	memcpy(net.driver.ram + FRAME + NET_HEADER_SIZE, frame, sizeof(frame));
	driver_request(&net.driver, 1, &(struct driver_buffer){FRAME, SIZE, false}, 1);
	ready = (struct pollfd){.fd = net.neighbour, .events = POLLIN};
	assert_int_equal(poll(&ready, 1, 60000), 1);
	assert_int_equal(recv(net.neighbour, got, sizeof(got), 0), sizeof(frame));
	assert_memory_equal(got, frame, sizeof(frame));
	teardown(&net);
}

static void the_kernel_filters_what_the_guest_does_not_want(void **state)
{
	static const uint8_t other[6] = {2, 0, 0, 0, 0, 9},
			     broadcast[6] = {255, 255, 255, 255, 255, 255};
	struct driver_buffer buffers[] = {{FRAME, 3, false}, {FRAME + 64, 1, true}};
	uint8_t frame[SIZE - NET_HEADER_SIZE];
	const uint8_t *packet;
	struct net net;

	NEED_TAP();
	setup(&net, BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX));
	make_frame(frame, other);
	assert_int_equal(send(net.neighbour, frame, sizeof(frame), 0), sizeof(frame));
	assert_non_null(guest_receives(&net)); /* promiscuous until told otherwise */
	memset(net.driver.ram + FRAME, 0, 3);  /* class RX, promiscuous, off */
	driver_request(&net.driver, 2, buffers, 2);
	assert_int_equal(net.driver.ram[FRAME + 64], NET_CONTROL_OK);
	assert_int_equal(send(net.neighbour, frame, sizeof(frame), 0), sizeof(frame));
	make_frame(frame, own_mac);
	assert_int_equal(send(net.neighbour, frame, sizeof(frame), 0), sizeof(frame));
	packet = guest_receives(&net);
	assert_non_null(packet);
	assert_memory_equal(packet + NET_HEADER_SIZE, own_mac, 6);
	make_frame(frame, broadcast);
	assert_int_equal(send(net.neighbour, frame, sizeof(frame), 0), sizeof(frame));
	assert_non_null(guest_receives(&net));
	teardown(&net);
}

static void an_interface_that_is_deleted_takes_the_link_down(void **state)
{
	struct net net;

	NEED_TAP();
	if (system("command -v ip >/dev/null"))
		skip();
	setup(&net, BIT(NET_F_STATUS));
	assert_int_equal(system("ip link delete device"), 0);
	for (int i = 0; i < 2000 && driver_read_config(&net.driver, 6, 2); i++)
		usleep(1000);
	assert_int_equal(driver_read_config(&net.driver, 6, 2), 0);
	/* What the guest sends goes nowhere, but its buffers come back. */
	driver_request(&net.driver, 1, &(struct driver_buffer){FRAME, SIZE, false}, 1);
	teardown(&net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_kernel_names_an_interface),
	    cmocka_unit_test(the_usual_offloads_are_known),
	    cmocka_unit_test(an_interface_in_use_is_refused),
	    cmocka_unit_test(another_kind_of_interface_is_refused),
	    cmocka_unit_test(an_interface_for_several_queues_serves_one),
	    cmocka_unit_test(an_interface_for_one_queue_does_not_serve_several),
	    cmocka_unit_test(queues_are_detached_and_attached),
	    cmocka_unit_test(the_mtu_is_set),
	    cmocka_unit_test(a_persistent_interface_is_left_without_a_filter),
	    cmocka_unit_test(an_interface_goes_on_in_another_process),
	    cmocka_unit_test(a_process_that_does_not_take_an_interface_changes_nothing),
	    cmocka_unit_test(frames_go_both_ways),
	    cmocka_unit_test(the_kernel_filters_what_the_guest_does_not_want),
	    cmocka_unit_test(an_interface_that_is_deleted_takes_the_link_down),
	};

	return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
