/* SPDX-License-Identifier: BSD-2-Clause */
/* Finding GnuTLS at run time, gnutls_library.h. */
#include "migration/gnutls_library.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

/* The version of the interface that the header describes. */
#define LIBRARY "libgnutls.so.30"

static const struct {
	const char *name;
	size_t offset;
} symbols[] = {
#define GNUTLS_ENTRY(name) {"gnutls_" #name, offsetof(struct gnutls_library, name)},
    GNUTLS_SYMBOLS(GNUTLS_ENTRY)
#undef GNUTLS_ENTRY
};

struct error *gnutls_library_load(struct gnutls_library *library)
{
	/* Its own threads and buffers may outlive the last session: never unloaded. */
	void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);

	if (!handle)
		return error_new(ENOENT,
				 "TLS: GnuTLS is not usable: %s; install " LIBRARY
				 " (Debian: libgnutls30)",
				 dlerror());
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		void *address = dlsym(handle, symbols[i].name);

		if (!address) {
			dlclose(handle);
			return error_new(
			    ENOENT, "TLS: " LIBRARY " has no '%s'; install GnuTLS 3.7 or newer",
			    symbols[i].name);
		}
		memcpy((char *)library + symbols[i].offset, &address, sizeof(address));
	}
	dlclose(handle);
	return NULL;
}
