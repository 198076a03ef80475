// SPDX-License-Identifier: GPL-2.0
/*
 * The verbs that ask about the device and its port, the GID table, and objects
 * of which there is little to say: contexts, protection domains, addresses.
 */
#include <linux/etherdevice.h>
#include <linux/virtio_config.h>
#include <rdma/ib_cache.h>
#include <rdma/ib_mad.h>
#include <rdma/uverbs_ioctl.h>

#include "vrdma.h"

int vrdma_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		       struct ib_udata *udata)
{
	const struct vrdma_limits *limits = &to_vdev(ibdev)->limits;

	if (udata->inlen || udata->outlen)
		return -EINVAL;

	memset(attr, 0, sizeof(*attr));
	attr->fw_ver = 1ULL << 32;
	attr->sys_image_guid = to_vdev(ibdev)->guid;
	attr->max_mr_size = limits->max_mr_size;
	attr->page_size_cap = GENMASK_ULL(30, 12);
	attr->vendor_id = to_vdev(ibdev)->vdev->id.vendor;
	attr->vendor_part_id = to_vdev(ibdev)->vdev->id.device;
	attr->max_qp = limits->max_qp;
	attr->max_qp_wr = limits->max_queue_slots - 1;
	attr->device_cap_flags = IB_DEVICE_PORT_ACTIVE_EVENT |
				 IB_DEVICE_SYS_IMAGE_GUID |
				 IB_DEVICE_RC_RNR_NAK_GEN;
	if (limits->max_fast_pages)
		attr->device_cap_flags |= IB_DEVICE_MEM_MGT_EXTENSIONS;
	if (limits->max_mw)
		attr->device_cap_flags |=
			IB_DEVICE_MEM_WINDOW | IB_DEVICE_MEM_WINDOW_TYPE_2B;
	attr->max_send_sge = limits->max_sge;
	attr->max_recv_sge = limits->max_sge;
	attr->max_sge_rd = limits->max_sge;
	attr->max_cq = limits->max_cq;
	attr->max_cqe = limits->max_cq_slots - 1;
	attr->max_mr = limits->max_mr;
	attr->max_mw = limits->max_mw;
	attr->max_pd = limits->max_pd;
	attr->max_qp_rd_atom = limits->max_rd_atomic;
	attr->max_qp_init_rd_atom = limits->max_rd_atomic;
	attr->max_res_rd_atom = limits->max_rd_atomic * limits->max_qp;
	attr->atomic_cap = IB_ATOMIC_HCA;
	attr->max_ah = INT_MAX;
	attr->max_srq = limits->max_srq;
	attr->max_srq_wr = limits->max_queue_slots - 1;
	attr->max_srq_sge = limits->max_sge;
	attr->max_fast_reg_page_list_len = limits->max_fast_pages;
	attr->max_pkeys = 1;
	attr->local_ca_ack_delay = 15; /* 134 ms: the host may be busy */
	return 0;
}

static bool vrdma_device_port_up(struct vrdma_dev *dev)
{
	u32 status;

	virtio_cread_le(dev->vdev, struct virtio_rdma_config, status, &status);
	return status & VIRTIO_RDMA_S_PORT_UP;
}

/* Both the device and the interface that it belongs to have a say. */
enum ib_port_state vrdma_port_state(struct vrdma_dev *dev)
{
	enum ib_mtu mtu;

	if (!vrdma_device_port_up(dev))
		return IB_PORT_DOWN;
	return vrdma_netdev_state(dev, &mtu);
}

int vrdma_query_port(struct ib_device *ibdev, u32 port,
		     struct ib_port_attr *attr)
{
	struct vrdma_dev *dev = to_vdev(ibdev);
	enum ib_mtu mtu;

	/* Zeroed by the caller. */
	attr->state = vrdma_netdev_state(dev, &mtu);
	if (!vrdma_device_port_up(dev))
		attr->state = IB_PORT_DOWN;
	attr->phys_state = attr->state == IB_PORT_ACTIVE ?
				   IB_PORT_PHYS_STATE_LINK_UP :
				   IB_PORT_PHYS_STATE_DISABLED;
	attr->max_mtu = ib_mtu_int_to_enum(dev->limits.max_mtu);
	attr->active_mtu = min(mtu, attr->max_mtu);
	attr->gid_tbl_len = dev->limits.gids;
	attr->port_cap_flags = IB_PORT_CM_SUP;
	attr->max_msg_sz = dev->limits.max_message;
	attr->pkey_tbl_len = 1;
	attr->max_vl_num = 1;
	attr->ip_gids = true;
	/* Without the interface there is no speed, and that is no failure. */
	attr->active_speed = IB_SPEED_SDR;
	attr->active_width = IB_WIDTH_1X;
	if (attr->state == IB_PORT_ACTIVE)
		ib_get_eth_speed(ibdev, port, &attr->active_speed,
				 &attr->active_width);
	return 0;
}

int vrdma_get_port_immutable(struct ib_device *ibdev, u32 port,
			     struct ib_port_immutable *immutable)
{
	immutable->core_cap_flags = RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP;
	immutable->gid_tbl_len = to_vdev(ibdev)->limits.gids;
	immutable->pkey_tbl_len = 1;
	immutable->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

enum rdma_link_layer vrdma_get_link_layer(struct ib_device *ibdev, u32 port)
{
	return IB_LINK_LAYER_ETHERNET;
}

int vrdma_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey)
{
	if (index)
		return -EINVAL;
	*pkey = IB_DEFAULT_PKEY_FULL;
	return 0;
}

int vrdma_add_gid(const struct ib_gid_attr *attr, void **context)
{
	struct virtio_rdma_set_gid request = {
		.index = cpu_to_le32(attr->index),
	};

	if (attr->gid_type != IB_GID_TYPE_ROCE_UDP_ENCAP)
		return -EOPNOTSUPP;
	memcpy(request.gid, attr->gid.raw, sizeof(request.gid));
	return vrdma_command(to_vdev(attr->device), VIRTIO_RDMA_SET_GID,
			     &request.header, sizeof(request), NULL, 0);
}

int vrdma_del_gid(const struct ib_gid_attr *attr, void **context)
{
	return vrdma_command_number(to_vdev(attr->device),
				    VIRTIO_RDMA_DELETE_GID, attr->index);
}

int vrdma_alloc_ucontext(struct ib_ucontext *context, struct ib_udata *udata)
{
	return 0;
}

void vrdma_dealloc_ucontext(struct ib_ucontext *context)
{
}

/*
 * That there is this function says that the driver may go while processes have
 * the device open. The core destroys their objects; rings that they have
 * mapped are ordinary memory and stay theirs.
 */
void vrdma_disassociate_ucontext(struct ib_ucontext *context)
{
}

int vrdma_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	struct virtio_rdma_create_pd request = {};

	return vrdma_create(to_vdev(ibpd->device), VIRTIO_RDMA_CREATE_PD,
			    &request.header, sizeof(request),
			    &to_vpd(ibpd)->pdn);
}

int vrdma_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata)
{
	return vrdma_command_number(to_vdev(ibpd->device),
				    VIRTIO_RDMA_DESTROY_PD, to_vpd(ibpd)->pdn);
}

/*
 * The device knows no address handles: the address goes with each datagram.
 * The provider does that too when it is told that the handle has no number.
 */
int vrdma_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *init,
		    struct ib_udata *udata)
{
	const struct rdma_ah_attr *attr = init->ah_attr;
	const struct ib_global_route *grh = rdma_ah_read_grh(attr);
	struct rxe_create_ah_resp resp = {};
	struct rxe_av *av = &to_vah(ibah)->av;

	if (attr->type != RDMA_AH_ATTR_TYPE_ROCE ||
	    !(rdma_ah_get_ah_flags(attr) & IB_AH_GRH))
		return -EINVAL;

	av->port_num = rdma_ah_get_port_num(attr);
	av->network_type = ipv6_addr_v4mapped((void *)grh->dgid.raw) ?
				   RXE_NETWORK_TYPE_IPV4 :
				   RXE_NETWORK_TYPE_IPV6;
	ether_addr_copy(av->dmac, attr->roce.dmac);
	memcpy(av->grh.dgid.raw, grh->dgid.raw, sizeof(av->grh.dgid.raw));
	av->grh.flow_label = grh->flow_label;
	av->grh.sgid_index = grh->sgid_index;
	av->grh.hop_limit = grh->hop_limit;
	av->grh.traffic_class = grh->traffic_class;

	if (udata && udata->outlen)
		return ib_copy_to_udata(udata, &resp,
					min(sizeof(resp), udata->outlen));
	return 0;
}

int vrdma_query_ah(struct ib_ah *ibah, struct rdma_ah_attr *attr)
{
	const struct rxe_av *av = &to_vah(ibah)->av;

	memset(attr, 0, sizeof(*attr));
	attr->type = ibah->type;
	rdma_ah_set_port_num(attr, av->port_num);
	rdma_ah_set_grh(attr, (union ib_gid *)av->grh.dgid.raw,
			av->grh.flow_label, av->grh.sgid_index,
			av->grh.hop_limit, av->grh.traffic_class);
	ether_addr_copy(attr->roce.dmac, av->dmac);
	return 0;
}

int vrdma_destroy_ah(struct ib_ah *ibah, u32 flags)
{
	return 0;
}
