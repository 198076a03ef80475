/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tap interfaces, see tap.h. Opening runs on the main thread before the guest does; what can fail
 * there are permissions and names, and each error says what the operator can do.
 *
 * System calls: openat (/dev/net/tun), ioctl (TUN*, SIOCGIFMTU, SIOCSIFMTU), socket, fcntl, close.
 */
#include "virtio/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "virtio/handed.h"
#include "virtio/net_header.h"

void tap_init(struct tap *tap)
{
	*tap = (struct tap){0};
	for (size_t i = 0; i < TAP_QUEUES_MAX; i++)
		tap->fds[i] = -1;
}

void tap_close(struct tap *tap)
{
	/* A persistent interface would keep the filter, for a next user with another address. */
	if (tap->fds[0] >= 0 && (tap_set_filter(tap, NULL, 0, true) || tap_set_offloads(tap, 0)))
		log_debug("tap interface '%s' keeps its filter or offloads", tap->name);
	for (size_t i = 0; i < TAP_QUEUES_MAX; i++)
		close_fd(&tap->fds[i]);
	tap->queue_count = 0;
}

static struct error *open_device(int *fd)
{
	*fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*fd >= 0)
		return NULL;
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return error_new(errno,
				 "cannot open /dev/net/tun: the host's kernel has no tun driver; "
				 "load it with 'modprobe tun'");
	case EACCES:
	case EPERM:
		return error_new(errno,
				 "cannot open /dev/net/tun: permission denied; run as root or "
				 "grant access to the device");
	default:
		return error_system(errno, "cannot open /dev/net/tun");
	}
}

/* Explains why TUNSETIFF failed with @code. */
static struct error *attach_error(int code, const char *name, uint32_t queues, uint32_t index)
{
	const char *shown = *name ? name : "tap%d";

	switch (code) {
	case EPERM:
		return error_new(
		    code,
		    "tap interface '%s': permission denied; create it for this user with "
		    "'ip tuntap add dev %s mode tap%s user NAME', or run with CAP_NET_ADMIN",
		    shown, *name ? name : "NAME", queues > 1 ? " multi_queue" : "");
	case EBUSY:
		return error_new(
		    code,
		    "tap interface '%s' is in use by another program; end that or choose "
		    "another interface",
		    shown);
	case EINVAL:
		return error_new(
		    code,
		    "'%s' cannot be used as a tap interface%s: it is another kind of "
		    "interface, or it was created %s multi_queue; create it with 'ip tuntap "
		    "add dev %s mode tap%s'",
		    shown, queues > 1 ? " with several queues" : "",
		    queues > 1 ? "without" : "with", *name ? name : "NAME",
		    queues > 1 ? " multi_queue" : "");
	case E2BIG:
		return error_new(code, "tap interface '%s' has no room for queue %u of %u", shown,
				 index + 1, queues);
	default:
		return error_system(code, "tap interface '%s', queue %u", shown, index);
	}
}

static int attach(int fd, const char *name, short flags, char actual[IFNAMSIZ])
{
	struct ifreq request = {0};

	memcpy(request.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	request.ifr_flags = flags;
	if (ioctl(fd, TUNSETIFF, &request))
		return -errno;
	memcpy(actual, request.ifr_name, IFNAMSIZ);
	actual[IFNAMSIZ - 1] = '\0';
	return 0;
}

static struct error *open_queue(struct tap *tap, const char *name, uint32_t queues, uint32_t index)
{
	short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	int header_size = NET_HEADER_SIZE, little_endian = 1;
	AUTO_CLOSE int fd = -1;
	char actual[IFNAMSIZ];
	int result;

	TRY(open_device(&fd));
	if (queues > 1)
		flags |= IFF_MULTI_QUEUE;
	result = attach(fd, name, flags, actual);
	if (result == -EINVAL && queues == 1) {
		/* An interface that was created for several queues wants the flag even for one. */
		flags |= IFF_MULTI_QUEUE;
		result = attach(fd, name, flags, actual);
	}
	if (result)
		return attach_error(-result, name, queues, index);
	if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) || ioctl(fd, TUNSETVNETLE, &little_endian))
		return error_system(errno, "tap interface '%s': cannot set the header format",
				    actual);
	memcpy(tap->name, actual, sizeof(tap->name));
	tap->multi_queue = flags & IFF_MULTI_QUEUE;
	tap->fds[index] = TAKE_FD(fd);
	tap->queue_count = index + 1;
	return NULL;
}

/* Finds out which offloads the kernel knows, and leaves them off. */
static struct error *probe_offloads(struct tap *tap)
{
	static const unsigned int optional[] = {TUN_F_UFO, TUN_F_USO4 | TUN_F_USO6};
	unsigned int known = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

	if (ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)known))
		return error_system(errno, "tap interface '%s': cannot set offloads", tap->name);
	for (size_t i = 0; i < ARRAY_SIZE(optional); i++)
		if (!ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)(known | optional[i])))
			known |= optional[i];
	tap->offloads = known;
	if (ioctl(tap->fds[0], TUNSETOFFLOAD, 0UL))
		return error_system(errno, "tap interface '%s': cannot clear offloads", tap->name);
	return NULL;
}

struct error *tap_open(struct tap *tap, const char *name, uint32_t queues)
{
	struct error *error = NULL;

	tap_init(tap);
	if (strlen(name) >= IFNAMSIZ)
		return error_usage("tap interface '%s': a name has at most %d characters", name,
				   IFNAMSIZ - 1);
	if (strpbrk(name, "%/ "))
		return error_usage("tap interface '%s': not a valid interface name", name);
	for (uint32_t i = 0; i < queues && !error; i++)
		error = open_queue(tap, i ? tap->name : name, queues, i);
	if (!error)
		error = probe_offloads(tap);
	if (!error && tap_set_filter(tap, NULL, 0, true))
		error =
		    error_system(errno, "tap interface '%s': cannot clear its filter", tap->name);
	if (error)
		tap_close(tap);
	return error;
}

void tap_share(struct tap *tap, json_t *handed)
{
	tap->shared = handed;
	if (!handed)
		return;
	handed_put_list(handed, "queues", tap->fds, tap->queue_count);
	json_object_set_new(handed, "interface", json_string(tap->name));
	json_object_set_new(handed, "multi-queue", json_boolean(tap->multi_queue));
	json_object_set_new(handed, "offloads", json_integer(tap->offloads));
}

struct error *tap_adopt(struct tap *tap, json_t *handed)
{
	const char *name = json_string_value(json_object_get(handed, "interface"));

	tap_init(tap);
	tap->queue_count = handed_take_list(handed, "queues", tap->fds, TAP_QUEUES_MAX);
	if (!tap->queue_count || !name || strlen(name) >= sizeof(tap->name))
		return error_new(EBADMSG, "its tap interface has not come along");
	memcpy(tap->name, name, strlen(name));
	tap->multi_queue = json_is_true(json_object_get(handed, "multi-queue"));
	tap->offloads = (unsigned int)json_integer_value(json_object_get(handed, "offloads"));
	tap->shared = tap->away = true;
	return NULL;
}

void tap_release(struct tap *tap)
{
	tap->away = tap->shared;
}

void tap_take_over(struct tap *tap)
{
	tap->away = false;
}

void tap_from_sockets(struct tap *tap, const int *fds, uint32_t count)
{
	tap_init(tap);
	for (uint32_t i = 0; i < count; i++) {
		tap->fds[i] = fds[i];
		fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
	}
	tap->queue_count = count;
	tap->offloads =
	    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6;
}

/* What is said to the interface has no meaning: it is none, or another process's. */
static bool is_deaf(const struct tap *tap)
{
	return !*tap->name || tap->away;
}

struct error *tap_set_mtu(struct tap *tap, uint16_t mtu)
{
	struct ifreq request = {0};
	AUTO_CLOSE int fd = -1;

	if (is_deaf(tap))
		return NULL;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	memcpy(request.ifr_name, tap->name, sizeof(request.ifr_name));
	if (fd < 0 || ioctl(fd, SIOCGIFMTU, &request))
		return error_system(errno, "tap interface '%s': cannot read its MTU", tap->name);
	if (request.ifr_mtu == mtu)
		return NULL;
	request.ifr_mtu = mtu;
	if (ioctl(fd, SIOCSIFMTU, &request))
		return error_system(
		    errno,
		    "tap interface '%s': cannot set its MTU to %u (set it beforehand "
		    "with 'ip link set %s mtu %u')",
		    tap->name, mtu, tap->name, mtu);
	return NULL;
}

int tap_set_offloads(struct tap *tap, unsigned int offloads)
{
	if (is_deaf(tap))
		return 0;
	return ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)offloads) ? -errno : 0;
}

int tap_set_filter(struct tap *tap, const uint8_t (*macs)[6], uint16_t count, bool all_multicast)
{
	/* struct tun_filter, which ends in an array of unknown length. */
	_Alignas(struct tun_filter) uint8_t filter[sizeof(struct tun_filter) + TAP_FILTER_MAX * 6];
	struct tun_filter head = {.flags = all_multicast ? TUN_FLT_ALLMULTI : 0, .count = count};

	if (count > TAP_FILTER_MAX)
		return -E2BIG;
	if (is_deaf(tap))
		return 0;
	memcpy(filter, &head, sizeof(head));
	if (count)
		memcpy(filter + sizeof(head), macs, (size_t)count * 6);
	return ioctl(tap->fds[0], TUNSETTXFILTER, filter) < 0 ? -errno : 0;
}

int tap_attach_queue(struct tap *tap, uint32_t queue, bool attach_it)
{
	struct ifreq request = {.ifr_flags = attach_it ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

	if (is_deaf(tap) || !tap->multi_queue)
		return 0;
	/* EINVAL: it is in that state already. */
	if (ioctl(tap->fds[queue], TUNSETQUEUE, &request) && errno != EINVAL)
		return -errno;
	return 0;
}
