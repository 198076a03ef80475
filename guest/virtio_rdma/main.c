// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for the virtio RDMA device.
 *
 * The device is a RoCE v2 adapter that the host executes. To user space this
 * driver offers the interface of the kernel's software RoCE (rxe): the
 * provider that every distribution has for that then drives this device. To
 * the kernel's own users of RDMA it is a device like others.
 */
#include <linux/module.h>
#include <linux/virtio_config.h>
#include <rdma/ib_user_verbs.h>

#include "vrdma.h"

/* What librxe looks for. */
#define VRDMA_UVERBS_ABI_VERSION 2

static const struct ib_device_ops vrdma_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_RXE,
	.uverbs_abi_ver = VRDMA_UVERBS_ABI_VERSION,

	.add_gid = vrdma_add_gid,
	.alloc_mr = vrdma_alloc_mr,
	.alloc_mw = vrdma_alloc_mw,
	.alloc_pd = vrdma_alloc_pd,
	.alloc_ucontext = vrdma_alloc_ucontext,
	.create_ah = vrdma_create_ah,
	.create_cq = vrdma_create_cq,
	.create_qp = vrdma_create_qp,
	.create_srq = vrdma_create_srq,
	.create_user_ah = vrdma_create_ah,
	.dealloc_mw = vrdma_dealloc_mw,
	.dealloc_pd = vrdma_dealloc_pd,
	.dealloc_ucontext = vrdma_dealloc_ucontext,
	.del_gid = vrdma_del_gid,
	.dereg_mr = vrdma_dereg_mr,
	.destroy_ah = vrdma_destroy_ah,
	.destroy_cq = vrdma_destroy_cq,
	.destroy_qp = vrdma_destroy_qp,
	.destroy_srq = vrdma_destroy_srq,
	.disassociate_ucontext = vrdma_disassociate_ucontext,
	.get_dma_mr = vrdma_get_dma_mr,
	.get_link_layer = vrdma_get_link_layer,
	.get_port_immutable = vrdma_get_port_immutable,
	.map_mr_sg = vrdma_map_mr_sg,
	.mmap = vrdma_mmap,
	.mmap_free = vrdma_mmap_free,
	.modify_qp = vrdma_modify_qp,
	.modify_srq = vrdma_modify_srq,
	.poll_cq = vrdma_poll_cq,
	.post_recv = vrdma_post_recv,
	.post_send = vrdma_post_send,
	.post_srq_recv = vrdma_post_srq_recv,
	.query_ah = vrdma_query_ah,
	.query_device = vrdma_query_device,
	.query_pkey = vrdma_query_pkey,
	.query_port = vrdma_query_port,
	.query_qp = vrdma_query_qp,
	.query_srq = vrdma_query_srq,
	.reg_user_mr = vrdma_reg_user_mr,
	.req_notify_cq = vrdma_req_notify_cq,

	INIT_RDMA_OBJ_SIZE(ib_ah, vrdma_ah, ibah),
	INIT_RDMA_OBJ_SIZE(ib_cq, vrdma_cq, ibcq),
	INIT_RDMA_OBJ_SIZE(ib_mw, vrdma_mw, ibmw),
	INIT_RDMA_OBJ_SIZE(ib_pd, vrdma_pd, ibpd),
	INIT_RDMA_OBJ_SIZE(ib_qp, vrdma_qp, ibqp),
	INIT_RDMA_OBJ_SIZE(ib_srq, vrdma_srq, ibsrq),
	INIT_RDMA_OBJ_SIZE(ib_ucontext, vrdma_ucontext, ibcontext),
};

#define vrdma_read(dev, field)                                         \
	virtio_cread_le((dev)->vdev, struct virtio_rdma_config, field, \
			&(dev)->limits.field)

static int vrdma_read_config(struct vrdma_dev *dev)
{
	struct vrdma_limits *limits = &dev->limits;
	u16 gids;

	virtio_cread_bytes(dev->vdev, offsetof(struct virtio_rdma_config, mac),
			   dev->mac, sizeof(dev->mac));
	virtio_cread_bytes(dev->vdev, offsetof(struct virtio_rdma_config, guid),
			   &dev->guid, sizeof(dev->guid));
	virtio_cread_le(dev->vdev, struct virtio_rdma_config, gids, &gids);
	limits->gids = gids;
	vrdma_read(dev, max_mtu);
	vrdma_read(dev, max_qp);
	vrdma_read(dev, max_cq);
	vrdma_read(dev, max_srq);
	vrdma_read(dev, max_pd);
	vrdma_read(dev, max_mr);
	vrdma_read(dev, max_mw);
	vrdma_read(dev, max_queue_slots);
	vrdma_read(dev, max_cq_slots);
	vrdma_read(dev, max_sge);
	vrdma_read(dev, max_inline);
	vrdma_read(dev, max_rd_atomic);
	vrdma_read(dev, max_fast_pages);
	vrdma_read(dev, max_command);
	vrdma_read(dev, max_message);
	vrdma_read(dev, max_mr_size);

	/* Without these nothing could be made of the rest. */
	if (!limits->gids || limits->max_queue_slots < 2 ||
	    limits->max_cq_slots < 2 || !limits->max_sge ||
	    limits->max_command < 512) {
		dev_err(&dev->vdev->dev, "the configuration makes no sense\n");
		return -EINVAL;
	}
	/* Rings and lists of a size that this driver can count. */
	limits->max_queue_slots = min(limits->max_queue_slots, 1U << 20);
	limits->max_cq_slots = min(limits->max_cq_slots, 1U << 20);
	limits->max_sge = min(limits->max_sge, 32U);
	limits->max_inline =
		min_t(u32, limits->max_inline,
		      VIRTIO_RDMA_STRIDE_MAX - sizeof(struct rxe_send_wqe));
	limits->max_fast_pages = min(limits->max_fast_pages, 1U << 16);
	return 0;
}

static int vrdma_find_queues(struct vrdma_dev *dev)
{
	struct virtqueue *vqs[VIRTIO_RDMA_VQ_COUNT];
	int err;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info info[] = {
		{ "control", vrdma_control_done },
		{ "events", vrdma_event_interrupt },
		{ "kick", NULL },
	};

	err = virtio_find_vqs(dev->vdev, ARRAY_SIZE(vqs), vqs, info, NULL);
#else
	vq_callback_t *callbacks[] = { vrdma_control_done,
				       vrdma_event_interrupt, NULL };
	const char *const names[] = { "control", "events", "kick" };

	err = virtio_find_vqs(dev->vdev, ARRAY_SIZE(vqs), vqs, callbacks, names,
			      NULL);
#endif
	if (err)
		return err;
	dev->control_vq = vqs[VIRTIO_RDMA_VQ_CONTROL];
	dev->event_vq = vqs[VIRTIO_RDMA_VQ_EVENTS];
	dev->kick_vq = vqs[VIRTIO_RDMA_VQ_KICK];
	return 0;
}

static int vrdma_register(struct vrdma_dev *dev)
{
	struct ib_device *ibdev = &dev->ibdev;
	int err;

	strscpy(ibdev->node_desc, "virtio RDMA", sizeof(ibdev->node_desc));
	ibdev->node_type = RDMA_NODE_IB_CA;
	ibdev->node_guid = dev->guid;
	ibdev->phys_port_cnt = 1;
	ibdev->num_comp_vectors = 1;
	/* What librxe asks for by the calls of old. */
	ibdev->uverbs_cmd_mask |= BIT_ULL(IB_USER_VERBS_CMD_POST_SEND) |
				  BIT_ULL(IB_USER_VERBS_CMD_REQ_NOTIFY_CQ);
	ib_set_device_ops(ibdev, &vrdma_ops);

	err = vrdma_netdev_watch(dev);
	if (err)
		return err;
	/* Regions of a process's memory are few pieces where that is so. */
	dma_set_max_seg_size(vrdma_dma_dev(dev), UINT_MAX);
	err = ib_register_device(ibdev, "virtio_rdma%d", vrdma_dma_dev(dev));
	if (err) {
		vrdma_netdev_unwatch(dev);
		return err;
	}
	vrdma_netdev_registered(dev);
	return 0;
}

static int vrdma_probe(struct virtio_device *vdev)
{
	struct vrdma_dev *dev;
	int err;

	BUILD_BUG_ON(IS_ENABLED(CONFIG_CPU_BIG_ENDIAN));
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1))
		return -ENODEV;
	/* The device takes physical addresses; an IOMMU would give others. */
	if (!virtio_has_feature(vdev, VIRTIO_F_ACCESS_PLATFORM) &&
	    device_iommu_mapped(vdev->dev.parent)) {
		dev_err(&vdev->dev, "does not work behind an IOMMU\n");
		return -EOPNOTSUPP;
	}

	dev = ib_alloc_device(vrdma_dev, ibdev);
	if (!dev)
		return -ENOMEM;
	dev->vdev = vdev;
	vdev->priv = dev;
	spin_lock_init(&dev->kick_lock);
	xa_init_flags(&dev->cqs, XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->qps, XA_FLAGS_LOCK_IRQ);
	xa_init_flags(&dev->srqs, XA_FLAGS_LOCK_IRQ);

	err = vrdma_read_config(dev);
	if (err)
		goto dealloc;
	err = vrdma_control_init(dev);
	if (err)
		goto dealloc;
	err = vrdma_events_init(dev);
	if (err)
		goto control;
	err = vrdma_find_queues(dev);
	if (err)
		goto events;
	virtio_device_ready(vdev);
	vrdma_events_start(dev);
	err = vrdma_register(dev);
	if (err)
		goto reset;
	return 0;

reset:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
events:
	vrdma_events_free(dev);
control:
	vrdma_control_free(dev);
dealloc:
	ib_dealloc_device(&dev->ibdev);
	return err;
}

static void vrdma_remove(struct virtio_device *vdev)
{
	struct vrdma_dev *dev = vdev->priv;

	vrdma_netdev_unwatch(dev);
	/* Ends every user, with commands: the queues are still there. */
	ib_unregister_device(&dev->ibdev);
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
	vrdma_events_free(dev);
	vrdma_control_free(dev);
	ib_dealloc_device(&dev->ibdev);
}

static void vrdma_config_changed(struct virtio_device *vdev)
{
	vrdma_netdev_check(vdev->priv);
}

static const unsigned int vrdma_features[] = {
	VIRTIO_RDMA_F_RXE_QUEUES,
};

static const struct virtio_device_id vrdma_ids[] = {
	{ VIRTIO_ID_RDMA, VIRTIO_DEV_ANY_ID },
	{},
};
MODULE_DEVICE_TABLE(virtio, vrdma_ids);

static struct virtio_driver vrdma_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = vrdma_ids,
	.feature_table = vrdma_features,
	.feature_table_size = ARRAY_SIZE(vrdma_features),
	.probe = vrdma_probe,
	.remove = vrdma_remove,
	.config_changed = vrdma_config_changed,
};
module_virtio_driver(vrdma_driver);

MODULE_DESCRIPTION("virtio RDMA device");
MODULE_LICENSE("GPL");
