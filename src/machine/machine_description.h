/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the two ends of a migration tell each other about the machine before anything of it moves: its
 * configuration, where its memory is, which states there will be and of which versions, what its
 * processors say about themselves. As JSON, the message CONFIG (docs/migration-protocol.md).
 *
 * Reading trusts nothing: the peer controls every byte. What is missing, of another type or does not
 * fit this host is refused by name. Main thread.
 */
#ifndef GODWIT_MACHINE_MACHINE_DESCRIPTION_H
#define GODWIT_MACHINE_MACHINE_DESCRIPTION_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"
#include "migration/wire.h"

struct machine_description;

/* The text of a message of the peer, for a person: what is not printable ASCII is '?'; cut. */
#define MACHINE_PEER_TEXT 512
const char *machine_peer_text(const struct migration_message *message,
			      char text[MACHINE_PEER_TEXT]);

/*
 * @machine's, as text, which is freed with free(), with @descriptors of its memory going along (0: its
 * memory is sent). *@states: how many states there will be.
 */
struct error *machine_describe(struct machine *machine, uint32_t descriptors, char **text,
			       uint32_t *states) MUST_CHECK;
/* How many descriptors of memory go along; 0: memory is sent. */
uint32_t machine_description_descriptors(const struct machine_description *description);

/* Understands @size bytes at @text, which may have gone when it returns. */
struct error *machine_description_read(const char *text, size_t size,
				       struct machine_description **description) MUST_CHECK;
/* Accepts NULL. */
void machine_description_free(struct machine_description *description);
DEFINE_CLEANUP(machine_description, struct machine_description *, machine_description_free)
#define AUTO_MACHINE_DESCRIPTION AUTO(cleanup_machine_description)

/* The configuration, which is released with machine_config_clear in any case. */
struct error *machine_description_config(const struct machine_description *description,
					 struct machine_config *config) MUST_CHECK;
/*
 * Whether @machine, which was made of that configuration on this host, can take over what was
 * described: an error names what differs.
 */
struct error *machine_description_check(const struct machine_description *description,
					struct machine *machine) MUST_CHECK;
/* Bytes of a page of the host behind a block of memory there; 0: not said. */
uint64_t machine_description_page_size(const struct machine_description *description,
				       const char *block);
/* How many states there are, and one of them, once it was checked. The name is the description's. */
uint32_t machine_description_states(const struct machine_description *description);
void machine_description_state(const struct machine_description *description, uint32_t index,
			       const char **name, uint32_t *instance, uint32_t *version);

#endif
