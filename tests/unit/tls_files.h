/* SPDX-License-Identifier: BSD-2-Clause */
/* Makes folders with certificates, as transport_tls.h wants them, for tests. */
#ifndef GODWIT_TESTS_TLS_FILES_H
#define GODWIT_TESTS_TLS_FILES_H

#include "cmocka_prelude.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

struct tls_authority {
	gnutls_x509_crt_t certificate;
	gnutls_x509_privkey_t key;
};

static inline void tls_write(const char *folder, const char *name, const gnutls_datum_t *bytes)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes->data, 1, bytes->size, file), bytes->size);
	fclose(file);
}

/* A certificate for @host, signed by @authority, or by itself. */
static inline struct tls_authority tls_certify(const struct tls_authority *authority,
					       const char *host, const char *purpose,
					       time_t expires)
{
	static unsigned char serial;
	struct tls_authority made;

	assert_int_equal(gnutls_x509_privkey_init(&made.key), 0);
	assert_int_equal(
	    gnutls_x509_privkey_generate(made.key, GNUTLS_PK_ECDSA,
					 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
	    0);
	assert_int_equal(gnutls_x509_crt_init(&made.certificate), 0);
	gnutls_x509_crt_set_version(made.certificate, 3);
	serial++;
	gnutls_x509_crt_set_serial(made.certificate, &serial, 1);
	gnutls_x509_crt_set_activation_time(made.certificate, 0);
	gnutls_x509_crt_set_expiration_time(made.certificate, expires);
	gnutls_x509_crt_set_dn_by_oid(made.certificate, GNUTLS_OID_X520_COMMON_NAME, 0, host,
				      (unsigned int)strlen(host));
	gnutls_x509_crt_set_key(made.certificate, made.key);
	gnutls_x509_crt_set_basic_constraints(made.certificate, !authority, -1);
	if (authority) {
		gnutls_x509_crt_set_subject_alt_name(made.certificate, GNUTLS_SAN_DNSNAME, host,
						     (unsigned int)strlen(host), GNUTLS_FSAN_SET);
		gnutls_x509_crt_set_key_purpose_oid(made.certificate, purpose, 0);
	} else {
		gnutls_x509_crt_set_key_usage(made.certificate, GNUTLS_KEY_KEY_CERT_SIGN);
	}
	assert_int_equal(
	    gnutls_x509_crt_sign2(made.certificate,
				  authority ? authority->certificate : made.certificate,
				  authority ? authority->key : made.key, GNUTLS_DIG_SHA256, 0),
	    0);
	return made;
}

static inline void tls_forget(struct tls_authority *made)
{
	gnutls_x509_crt_deinit(made->certificate);
	gnutls_x509_privkey_deinit(made->key);
}

static inline void tls_put(const char *folder, const struct tls_authority *made,
			   const char *certificate, const char *key)
{
	gnutls_datum_t bytes;

	assert_int_equal(gnutls_x509_crt_export2(made->certificate, GNUTLS_X509_FMT_PEM, &bytes),
			 0);
	tls_write(folder, certificate, &bytes);
	gnutls_free(bytes.data);
	if (!key)
		return;
	assert_int_equal(gnutls_x509_privkey_export2(made->key, GNUTLS_X509_FMT_PEM, &bytes), 0);
	tls_write(folder, key, &bytes);
	gnutls_free(bytes.data);
}

/* Fills the folder @template ("…XXXXXX", which gets its name) with what both ends need. */
static inline void tls_folder(char *template, const struct tls_authority *authority,
			      const char *host, time_t expires)
{
	struct tls_authority server =
	    tls_certify(authority, host, GNUTLS_KP_TLS_WWW_SERVER, expires);
	struct tls_authority client =
	    tls_certify(authority, "client", GNUTLS_KP_TLS_WWW_CLIENT, expires);

	assert_non_null(mkdtemp(template));
	tls_put(template, authority, "ca-cert.pem", NULL);
	tls_put(template, &server, "server-cert.pem", "server-key.pem");
	tls_put(template, &client, "client-cert.pem", "client-key.pem");
	tls_forget(&server);
	tls_forget(&client);
}

static inline void tls_folder_remove(const char *folder)
{
	static const char *const names[] = {"ca-cert.pem", "server-cert.pem", "server-key.pem",
					    "client-cert.pem", "client-key.pem"};
	char path[256];

	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		unlink(path);
	}
	rmdir(folder);
}

#endif
