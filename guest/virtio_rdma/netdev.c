// SPDX-License-Identifier: GPL-2.0
/*
 * The network interface that belongs to a virtio RDMA device.
 *
 * It is the one with the MAC address of the device's configuration. Its IP
 * addresses are the device's GIDs, which the RDMA core finds by itself once it
 * knows the interface; its MTU bounds the path MTU; its carrier is the state of
 * the port. It may come after the device and go before it, so it is followed by
 * a notifier, which the core calls with the RTNL held. What must not be done
 * with it held is left to a work item.
 */
#include <linux/etherdevice.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_cache.h>

#include "vrdma.h"

static bool vrdma_netdev_is_ours(const struct vrdma_dev *dev,
				 const struct net_device *ndev)
{
	/* VLANs and other upper interfaces have no address of their own. */
	return ether_addr_equal_unaligned(ndev->perm_addr, dev->mac);
}

/* What the interface says of the port: *@mtu is what fits into its packets. */
enum ib_port_state vrdma_netdev_state(struct vrdma_dev *dev, enum ib_mtu *mtu)
{
	enum ib_port_state state = IB_PORT_DOWN;
	unsigned long flags;

	*mtu = IB_MTU_256;
	spin_lock_irqsave(&dev->netdev_lock, flags);
	if (dev->netdev) {
		*mtu = iboe_get_mtu(READ_ONCE(dev->netdev->mtu)) ?: IB_MTU_256;
		if (netif_running(dev->netdev) && netif_carrier_ok(dev->netdev))
			state = IB_PORT_ACTIVE;
	}
	spin_unlock_irqrestore(&dev->netdev_lock, flags);
	return state;
}

static void vrdma_netdev_set(struct vrdma_dev *dev, struct net_device *ndev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->netdev_lock, flags);
	dev->netdev = ndev;
	spin_unlock_irqrestore(&dev->netdev_lock, flags);
}

static void vrdma_netdev_work(struct work_struct *work)
{
	struct vrdma_dev *dev =
		container_of(work, struct vrdma_dev, netdev_work);
	struct ib_event event = {
		.device = &dev->ibdev,
		.element.port_num = VRDMA_PORT,
	};

	if (test_and_clear_bit(VRDMA_NETDEV_RESCAN, &dev->netdev_flags))
		rdma_roce_rescan_device(&dev->ibdev);
	event.event = vrdma_port_state(dev) == IB_PORT_ACTIVE ?
			      IB_EVENT_PORT_ACTIVE :
			      IB_EVENT_PORT_ERR;
	ib_dispatch_event(&event);
}

/* The state of the port may have changed; callable in interrupts. */
void vrdma_netdev_check(struct vrdma_dev *dev)
{
	if (test_bit(VRDMA_NETDEV_REGISTERED, &dev->netdev_flags))
		queue_work(system_wq, &dev->netdev_work);
}

static int vrdma_netdev_event(struct notifier_block *nb, unsigned long event,
			      void *ptr)
{
	struct vrdma_dev *dev = container_of(nb, struct vrdma_dev, netdev_nb);
	struct net_device *ndev = netdev_notifier_info_to_dev(ptr);

	switch (event) {
	case NETDEV_REGISTER:
		if (dev->netdev || !vrdma_netdev_is_ours(dev, ndev))
			return NOTIFY_DONE;
		if (ib_device_set_netdev(&dev->ibdev, ndev, VRDMA_PORT))
			return NOTIFY_DONE;
		vrdma_netdev_set(dev, ndev);
		set_bit(VRDMA_NETDEV_RESCAN, &dev->netdev_flags);
		break;
	case NETDEV_UNREGISTER:
		if (dev->netdev != ndev)
			return NOTIFY_DONE;
		vrdma_netdev_set(dev, NULL);
		ib_device_set_netdev(&dev->ibdev, NULL, VRDMA_PORT);
		break;
	case NETDEV_UP:
	case NETDEV_DOWN:
	case NETDEV_CHANGE:
	case NETDEV_CHANGEMTU:
		if (dev->netdev != ndev)
			return NOTIFY_DONE;
		break;
	default:
		return NOTIFY_DONE;
	}
	vrdma_netdev_check(dev);
	return NOTIFY_DONE;
}

/*
 * Before ib_register_device: the interface is known from the start if it is
 * there, as it is told to a new notifier.
 */
int vrdma_netdev_watch(struct vrdma_dev *dev)
{
	spin_lock_init(&dev->netdev_lock);
	INIT_WORK(&dev->netdev_work, vrdma_netdev_work);
	dev->netdev_nb.notifier_call = vrdma_netdev_event;
	return register_netdevice_notifier(&dev->netdev_nb);
}

/* After ib_register_device: what has changed meanwhile is told to its users. */
void vrdma_netdev_registered(struct vrdma_dev *dev)
{
	set_bit(VRDMA_NETDEV_REGISTERED, &dev->netdev_flags);
	vrdma_netdev_check(dev);
}

/*
 * Before ib_unregister_device, which puts the reference to the interface. The
 * notifier's end is told of each interface that it goes, and would give it back.
 */
void vrdma_netdev_unwatch(struct vrdma_dev *dev)
{
	clear_bit(VRDMA_NETDEV_REGISTERED, &dev->netdev_flags);
	unregister_netdevice_notifier(&dev->netdev_nb);
	cancel_work_sync(&dev->netdev_work);
}
