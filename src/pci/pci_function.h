/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One PCI function: configuration space, capabilities, BARs and MSI-X, without knowing what device
 * it is or which hypervisor runs it. The host bridge above (src/machine/) routes accesses to it;
 * what a function needs from the machine it asks through struct pci_host_ops.
 *
 * Locking: configuration and BAR accesses come from vCPU threads; the host serialises configuration
 * accesses with one lock; BAR accesses run in parallel and the function's handler synchronises
 * itself. Every MSI-X entry has a lock of its own, so that the queues of a device interrupt without
 * waiting for each other.
 */
#ifndef GODWIT_PCI_PCI_FUNCTION_H
#define GODWIT_PCI_PCI_FUNCTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"

#define PCI_CONFIG_SIZE	      256
#define PCI_CONFIG_SPACE_SIZE 4096 /* extended (ECAM); bytes past 256 read as zeros */
#define PCI_BAR_COUNT	      6
#define PCI_MSIX_VECTORS_MAX  256

struct pci_function;

/* What a function asks of the machine. Every call may come from any thread. */
struct pci_host_ops {
	/* Memory BAR @bar now answers at @address (guest physical), or nowhere when @enabled is
	 * false. */
	void (*bar_changed)(void *host, struct pci_function *function, int bar, uint64_t address,
			    uint64_t size, bool enabled);
	/*
	 * Makes a guest's write of any size to @address signal @fd without leaving the kernel;
	 * false if it cannot be done (the write then arrives at bar_write). Unregister with the
	 * same arguments.
	 */
	bool (*add_doorbell)(void *host, uint64_t address, int fd);
	void (*remove_doorbell)(void *host, uint64_t address, int fd);
	/* Sends an MSI at once. */
	void (*send_msi)(void *host, uint64_t address, uint32_t data);
	/*
	 * Binds @fd (an eventfd) to an MSI so that a write to it, from any process, interrupts the
	 * guest; *route < 0 makes a new one, otherwise changes it. 0 or negative errno. NULL ops:
	 * not supported.
	 */
	int (*bind_msi_fd)(void *host, int fd, uint64_t address, uint32_t data, int *route);
	void (*unbind_msi_fd)(void *host, int fd, int route);
};

struct pci_bar {
	uint64_t size;	  /* bytes, a power of two; 0: not implemented */
	uint64_t address; /* where it answers now */
	bool enabled;
	bool wide; /* 64-bit: takes the next BAR's register too */
	bool prefetchable;
};

/* An interrupt, from its first delivery on, goes through an irqfd if the host can bind one. */
struct pci_msix_entry {
	pthread_mutex_t lock; /* guards the rest */
	uint64_t address;
	uint32_t data;
	bool masked;
	bool pending;
	bool moved;	  /* address or data changed since the irqfd was bound */
	bool direct;	  /* the host could not bind an irqfd: send_msi */
	int fd;		  /* irqfd bound to it, or -1 */
	int route;	  /* of that irqfd, or -1 */
	int source;	  /* pci_function_msix_connect, or -1 */
	int source_route; /* of the irqfd that `source` is now, or -1: it is none */
};

/* Whether MSI-X may send at all, from the enable, function mask and bus master bits. */
enum pci_msix_gate {
	PCI_MSIX_OFF,  /* not enabled: interrupts vanish */
	PCI_MSIX_HELD, /* interrupts become pending */
	PCI_MSIX_OPEN,
};

struct pci_function_ops {
	/* An access inside memory BAR @bar that is not the MSI-X table; @size is 1, 2, 4 or 8. */
	void (*bar_read)(struct pci_function *function, int bar, uint64_t offset, void *data,
			 uint32_t size);
	void (*bar_write)(struct pci_function *function, int bar, uint64_t offset, const void *data,
			  uint32_t size);
	/* BAR moved, appeared or vanished: re-register doorbells. NULL: not interested. */
	void (*bar_moved)(struct pci_function *function, int bar);
	/* The driver turned bus mastering on or off; while off the function must not touch memory.
	 * NULL: it never does. */
	void (*bus_master_changed)(struct pci_function *function, bool enabled);
	/* A read of (write to) a capability the function added; true if it was handled. NULL: plain
	 * bytes. */
	bool (*config_read)(struct pci_function *function, uint32_t offset, uint32_t size,
			    uint32_t *value);
	bool (*config_write)(struct pci_function *function, uint32_t offset, uint32_t size,
			     uint32_t value);
	/* The secondary effects of a conventional reset of the function. */
	void (*reset)(struct pci_function *function);
	void (*destroy)(struct pci_function *function);
};

struct pci_function {
	const struct pci_function_ops *ops;
	char name[32];
	uint8_t devfn;			   /* set by the host when it is plugged in */
	uint8_t config[PCI_CONFIG_SIZE];   /* current values */
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that a driver may change */
	uint8_t next_capability;	   /* where the next one goes */
	uint8_t last_capability;
	struct pci_bar bars[PCI_BAR_COUNT];
	int msix_bar; /* -1: none */
	uint32_t msix_table_offset, msix_pba_offset;
	uint8_t msix_capability; /* offset in configuration space */
	uint16_t msix_vectors;
	struct pci_msix_entry *msix;
	enum pci_msix_gate msix_gate; /* atomic */
	bool bus_master;
	const struct pci_host_ops *host_ops;
	void *host;
};

/*
 * Fills the header; @class_code is 24 bits. The function starts with memory decoding and bus
 * mastering off. Undone by pci_function_cleanup, while the host is still there and no vCPU runs.
 */
void pci_function_init(struct pci_function *function, const struct pci_function_ops *ops,
		       const char *name, uint16_t vendor, uint16_t device, uint8_t revision,
		       uint32_t class_code, uint16_t subsystem_vendor, uint16_t subsystem);
void pci_function_cleanup(struct pci_function *function);
/* Declares a memory BAR; @wide ones use @bar and @bar + 1. */
void pci_function_add_bar(struct pci_function *function, int bar, uint64_t size, bool wide,
			  bool prefetchable);
/*
 * Appends a capability with @size bytes of @body after id and next; returns its offset, 0 if there
 * is no room. Its bytes are read-only unless the caller sets bits in `writable`.
 */
uint8_t pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
				    uint8_t size);
/* MSI-X with @vectors entries, table and PBA at the given offsets of @bar. */
struct error *pci_function_add_msix(struct pci_function *function, uint16_t vectors, int bar,
				    uint32_t table_offset, uint32_t pba_offset) MUST_CHECK;

/* Accesses by the host bridge; @size 1, 2 or 4, naturally aligned, inside PCI_CONFIG_SPACE_SIZE. */
uint32_t pci_function_config_read(struct pci_function *function, uint32_t offset, uint32_t size);
void pci_function_config_write(struct pci_function *function, uint32_t offset, uint32_t size,
			       uint32_t value);
/* Accesses by the host bridge to a BAR; routes the MSI-X table and PBA itself. */
void pci_function_bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
			   uint32_t size);
void pci_function_bar_write(struct pci_function *function, int bar, uint64_t offset,
			    const void *data, uint32_t size);
/* Places BAR @bar at @address, as firmware would; does not enable decoding. */
void pci_function_set_bar_address(struct pci_function *function, int bar, uint64_t address);
/* Back to the state after construction (bits a driver may change: 0), BAR addresses kept; then
 * ops->reset. */
void pci_function_reset(struct pci_function *function);

/*
 * Visits the state of @function (a struct pci_function *; for struct state_part): configuration
 * space, and with it BARs, interrupts and bus mastering, and the MSI-X table. Only while no vCPU
 * runs and the function raises no interrupts; what loading changes, the host and the operations are
 * told as if the driver had done it. Bytes that a driver cannot change must be what they are here.
 * What the function keeps behind its BARs is another part of the machine's state.
 */
void pci_function_state(void *function, struct state *state);

/* Interrupts the driver through MSI-X vector @vector (ignored if out of range); honours masks. Any
 * thread. */
void pci_function_msix_notify(struct pci_function *function, uint16_t vector);
/*
 * Lets whoever writes to @fd, an eventfd that stays the caller's, interrupt through @vector without
 * this process, as often as the vector is not masked and the host can: then the host takes what is
 * written out of @fd. At other times it stays there, and the caller, who watches @fd, passes it to
 * pci_function_msix_notify. A vector has one such descriptor; of a second the caller hears
 * everything, as of any on a vector that does not exist. Any thread.
 */
void pci_function_msix_connect(struct pci_function *function, uint16_t vector, int fd);
/* Ends that, if @fd is what @vector is connected to. Before @fd is closed. */
void pci_function_msix_disconnect(struct pci_function *function, uint16_t vector, int fd);

#endif
