/* SPDX-License-Identifier: BSD-2-Clause */
/* Control commands of net_control.h. The guest controls class, command and data. */
#include "virtio/net_control.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/net_header.h"

/* Classes and commands (5.1.6.5). */
enum control_class {
	CLASS_RX = 0,
	CLASS_MAC = 1,
	CLASS_VLAN = 2,
	CLASS_ANNOUNCE = 3,
	CLASS_MQ = 4,
	CLASS_GUEST_OFFLOADS = 5,
};
#define RX_PROMISC	   0
#define RX_ALLMULTI	   1
#define MAC_TABLE_SET	   0
#define MAC_ADDR_SET	   1
#define MQ_VQ_PAIRS_SET	   0
#define GUEST_OFFLOADS_SET 0
#define DATA		   2 /* where a command's data begins */

void net_control_reset(struct net_control *control, const uint8_t mac[6], uint64_t features)
{
	*control = (struct net_control){.pairs = 1, .offloads = features & NET_GUEST_OFFLOADS};
	memcpy(control->mac, mac, 6);
	/* A driver that never asks for less gets everything. */
	control->promiscuous = true;
}

static bool negotiated(uint64_t features, unsigned int bit)
{
	return features >> bit & 1;
}

static bool set_receive_mode(struct net_control *control, uint8_t command,
			     const struct virtqueue_chain *chain)
{
	uint8_t on;

	if (!virtqueue_chain_read(chain, DATA, &on, 1))
		return false;
	if (command == RX_PROMISC)
		control->promiscuous = on;
	else if (command == RX_ALLMULTI)
		control->all_multicast = on;
	else
		return false; /* the others belong to CTRL_RX_EXTRA, which is not offered */
	return true;
}

/*
 * One half of a table: an le32 and that many addresses, at *@offset of the chain; moves it past
 * them. Addresses beyond what fits are not kept and *@overflow is set.
 */
static bool read_table(struct net_control *control, const struct virtqueue_chain *chain,
		       uint64_t *offset, bool *overflow)
{
	uint8_t count_bytes[4];
	uint32_t count;

	if (!virtqueue_chain_read(chain, *offset, count_bytes, sizeof(count_bytes)))
		return false;
	*offset += sizeof(count_bytes);
	count = get_le32(count_bytes);
	if (!range_contains(0, chain->out_size, *offset, (uint64_t)count * 6))
		return false;
	*overflow = count > (uint32_t)(NET_CONTROL_MACS - control->mac_count);
	if (!*overflow) {
		if (count &&
		    !virtqueue_chain_read(chain, *offset, control->macs + control->mac_count,
					  (size_t)count * 6))
			return false;
		control->mac_count += count;
	}
	*offset += (uint64_t)count * 6;
	return true;
}

static bool set_mac_table(struct net_control *control, const struct virtqueue_chain *chain)
{
	uint64_t offset = DATA;

	control->mac_count = 0;
	if (!read_table(control, chain, &offset, &control->unicast_overflow))
		return false;
	control->unicast_count = control->mac_count;
	return read_table(control, chain, &offset, &control->multicast_overflow);
}

static bool unicast(const uint8_t mac[6])
{
	static const uint8_t none[6];

	return !(mac[0] & 1) && memcmp(mac, none, 6) != 0;
}

static bool set_mac(struct net_control *control, const struct virtqueue_chain *chain)
{
	uint8_t mac[6];

	if (!virtqueue_chain_read(chain, DATA, mac, sizeof(mac)) || !unicast(mac))
		return false;
	memcpy(control->mac, mac, sizeof(mac));
	return true;
}

static bool set_pairs(struct net_control *control, uint16_t pairs_max,
		      const struct virtqueue_chain *chain)
{
	uint8_t data[2];

	if (!virtqueue_chain_read(chain, DATA, data, sizeof(data)))
		return false;
	control->pairs = get_le16(data);
	return control->pairs >= 1 && control->pairs <= pairs_max;
}

static bool set_offloads(struct net_control *control, uint64_t features,
			 const struct virtqueue_chain *chain)
{
	uint8_t data[8];

	if (!virtqueue_chain_read(chain, DATA, data, sizeof(data)))
		return false;
	control->offloads = get_le64(data);
	return !(control->offloads & ~(features & NET_GUEST_OFFLOADS)) &&
	       net_features_valid(control->offloads);
}

bool net_control_execute(struct net_control *control, uint64_t features, uint16_t pairs_max,
			 const struct virtqueue_chain *chain, unsigned int *changed)
{
	uint8_t head[2]; /* class, command */

	*changed = 0;
	if (!virtqueue_chain_read(chain, 0, head, sizeof(head)))
		return false;
	switch (head[0]) {
	case CLASS_RX:
		*changed = NET_CONTROL_FILTER;
		return negotiated(features, NET_F_CTRL_RX) &&
		       set_receive_mode(control, head[1], chain);
	case CLASS_MAC:
		*changed = NET_CONTROL_FILTER;
		if (head[1] == MAC_TABLE_SET)
			return negotiated(features, NET_F_CTRL_RX) && set_mac_table(control, chain);
		return head[1] == MAC_ADDR_SET && negotiated(features, NET_F_CTRL_MAC_ADDR) &&
		       set_mac(control, chain);
	case CLASS_MQ:
		*changed = NET_CONTROL_PAIRS;
		return head[1] == MQ_VQ_PAIRS_SET && negotiated(features, NET_F_MQ) &&
		       set_pairs(control, pairs_max, chain);
	case CLASS_GUEST_OFFLOADS:
		*changed = NET_CONTROL_OFFLOADS;
		return head[1] == GUEST_OFFLOADS_SET &&
		       negotiated(features, NET_F_CTRL_GUEST_OFFLOADS) &&
		       set_offloads(control, features, chain);
	default: /* CLASS_VLAN and CLASS_ANNOUNCE belong to features that are not offered */
		return false;
	}
}

static void filter_state(struct net_control *control, struct state *state)
{
	uint32_t unicasts, count;

	state_bool(state, "promiscuous", &control->promiscuous);
	state_bool(state, "all multicast", &control->all_multicast);
	state_bool(state, "unicast overflow", &control->unicast_overflow);
	state_bool(state, "multicast overflow", &control->multicast_overflow);
	unicasts =
	    state_count(state, "unicast addresses", control->unicast_count, NET_CONTROL_MACS);
	count = state_count(state, "addresses", control->mac_count, NET_CONTROL_MACS);
	state_check(state, unicasts <= count, "addresses", "is less than the unicast ones");
	state_buffer(state, "address table", control->macs, (size_t)count * 6);
	if (!state_loading(state))
		return;
	control->unicast_count = (uint16_t)unicasts;
	control->mac_count = (uint16_t)count;
}

void net_control_state(struct net_control *control, uint64_t features, uint16_t pairs_max,
		       struct state *state)
{
	uint64_t offloads = features & NET_GUEST_OFFLOADS;

	state_buffer(state, "mac", control->mac, sizeof(control->mac));
	state_check(state, unicast(control->mac), "mac", "is no unicast address");
	filter_state(control, state);
	state_u64(state, "offloads", &control->offloads);
	state_check(
	    state,
	    !(control->offloads & ~offloads) && net_features_valid(control->offloads) &&
		(control->offloads == offloads || negotiated(features, NET_F_CTRL_GUEST_OFFLOADS)),
	    "offloads", "are not possible with what was negotiated");
	state_u16(state, "pairs", &control->pairs);
	state_check(state,
		    control->pairs == 1 || (control->pairs && control->pairs <= pairs_max &&
					    negotiated(features, NET_F_MQ)),
		    "pairs", "are more than there can be");
}

uint16_t net_control_filter(const struct net_control *control,
			    uint8_t macs[NET_CONTROL_FILTER_MACS][6], bool *all_multicast)
{
	uint16_t multicast_count = control->mac_count - control->unicast_count;
	uint16_t count = 0;

	*all_multicast = control->all_multicast || control->multicast_overflow;
	if (control->promiscuous || control->unicast_overflow)
		return 0;
	memcpy(macs[count++], control->mac, 6);
	memcpy(macs + count, control->macs, (size_t)control->unicast_count * 6);
	count += control->unicast_count;
	memset(macs[count++], 0xff, 6);
	memcpy(macs + count, control->macs + control->unicast_count, (size_t)multicast_count * 6);
	return count + multicast_count;
}
