/* Digests in the shape of one of the libraries that libyara knows, made by the
 * host. A context is the host's number for a running digest. */
#ifndef RP_COMMONDIGEST_H
#define RP_COMMONDIGEST_H

typedef int CC_MD5_CTX;
typedef int CC_SHA1_CTX;
typedef int CC_SHA256_CTX;

__attribute__((import_module("host"), import_name("digest_begin"))) int rp_digest_begin(int size);
__attribute__((import_module("host"), import_name("digest_add"))) void rp_digest_add(int ctx, const void *data, unsigned len);
__attribute__((import_module("host"), import_name("digest_end"))) void rp_digest_end(int ctx, unsigned char *out);

#define CC_MD5_Init(ctx)              (*(ctx) = rp_digest_begin(16))
#define CC_MD5_Update(ctx, data, len) rp_digest_add(*(ctx), data, (unsigned) (len))
#define CC_MD5_Final(out, ctx)        rp_digest_end(*(ctx), out)

#define CC_SHA1_Init(ctx)              (*(ctx) = rp_digest_begin(20))
#define CC_SHA1_Update(ctx, data, len) rp_digest_add(*(ctx), data, (unsigned) (len))
#define CC_SHA1_Final(out, ctx)        rp_digest_end(*(ctx), out)

#define CC_SHA256_Init(ctx)              (*(ctx) = rp_digest_begin(32))
#define CC_SHA256_Update(ctx, data, len) rp_digest_add(*(ctx), data, (unsigned) (len))
#define CC_SHA256_Final(out, ctx)        rp_digest_end(*(ctx), out)

#endif
