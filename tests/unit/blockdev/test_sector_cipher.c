/*
 * test_sector_cipher.c - the cipher of sectors, against the standard's vectors and on vectors of any shape.
 */
#include "fixture.h"

#include "crypto/sector_cipher.h"

/* IEEE 1619, vector 4 (AES-128, sector 0: the bytes 0 to 255 twice): its first block. */
static void xts_is_the_standards(void **state)
{
    static const uint8_t keys[32] = {
        0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60,
        0x28, 0x74, 0x71, 0x35, 0x26, 0x31, 0x41, 0x59, 0x26, 0x53, 0x58,
        0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95,
    };
    static const uint8_t first[16] = {0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4, 0x76,
                                      0x48, 0x9f, 0x30, 0x8c, 0xd4, 0xcf, 0xa6, 0xe2};
    struct sector_cipher_spec spec;
    struct sector_cipher *cipher;
    uint8_t plain[512], packed[512];
    struct iovec iov = {.iov_base = plain, .iov_len = sizeof(plain)};

    (void)state;
    for (size_t i = 0; i < sizeof(plain); i++) {
        plain[i] = (uint8_t)i;
    }
    assert_int_equal(sector_cipher_parse(&spec, "aes", "xts-plain64", 32, NULL), 0);
    assert_int_equal(sector_cipher_create(&spec, keys, &cipher), 0);
    assert_int_equal(sector_cipher_encrypt(cipher, 0, &iov, 1, 0, packed, sizeof(packed)), 0);
    assert_memory_equal(packed, first, sizeof(first));
    sector_cipher_destroy(cipher);
}

/* Sectors that lie across the pieces of a vector, from any byte on. */
static void vectors_may_be_cut_anywhere(void **state)
{
    enum { LENGTH = 5 * 512, SKIP = 37 };
    static const size_t cuts[] = {1, 511, 512, 513, 700, 0, 300, 2000};
    static const uint8_t keys[64] = {1, 2, 3};
    uint8_t plain[SKIP + LENGTH], back[SKIP + LENGTH] = {0}, packed[LENGTH], flat[LENGTH];
    struct iovec iov[ARRAY_LEN(cuts)], to[ARRAY_LEN(cuts)], whole;
    struct sector_cipher_spec spec;
    struct sector_cipher *cipher;
    size_t at = 0;
    int n = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(plain); i++) {
        plain[i] = (uint8_t)(i * i >> 3);
    }
    for (size_t i = 0; i < ARRAY_LEN(cuts) && at < sizeof(plain); i++, n++) {
        size_t length = min_u64(cuts[i], sizeof(plain) - at);

        iov[n] = (struct iovec){.iov_base = plain + at, .iov_len = length};
        to[n] = (struct iovec){.iov_base = back + at, .iov_len = length};
        at += length;
    }
    whole = (struct iovec){.iov_base = plain + SKIP, .iov_len = LENGTH};
    assert_int_equal(sector_cipher_parse(&spec, "aes", "xts-plain64", 64, NULL), 0);
    assert_int_equal(sector_cipher_create(&spec, keys, &cipher), 0);
    assert_int_equal(sector_cipher_encrypt(cipher, 3, iov, n, SKIP, packed, LENGTH), 0);
    assert_int_equal(sector_cipher_encrypt(cipher, 3, &whole, 1, 0, flat, LENGTH), 0);
    assert_memory_equal(packed, flat, LENGTH);
    assert_int_equal(sector_cipher_decrypt(cipher, 3, packed, to, n, SKIP, LENGTH), 0);
    assert_memory_equal(back + SKIP, plain + SKIP, LENGTH);
    for (size_t i = 0; i < SKIP; i++) {
        assert_int_equal(back[i], 0);
    }
    sector_cipher_destroy(cipher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xts_is_the_standards),
        cmocka_unit_test(vectors_may_be_cut_anywhere),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
