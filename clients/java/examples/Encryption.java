import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import javax.crypto.AEADBadTagException;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * End-to-end encryption of payloads with AES-256-GCM. The room and the sender are bound as
 * associated data: a payload that is copied into another room, or sent by somebody else, cannot be
 * opened.
 *
 * <p>An example, no protocol. There is no key exchange. A key is good for 2^32 messages, since
 * nonces are random. Nothing stops the service from repeating, reordering or dropping messages. The
 * sender to open with is {@code Message.sender()}, which the service verified.
 */
public final class Encryption {
  private static final byte VERSION = 1;
  private static final int NONCE_BYTES = 12;
  private static final int TAG_BITS = 128;

  private Encryption() {}

  /** Encrypts with a key of 32 bytes: version, nonce, then ciphertext with the tag. */
  public static byte[] seal(byte[] key, String room, String sender, byte[] payload)
      throws GeneralSecurityException {
    var nonce = new byte[NONCE_BYTES];
    new SecureRandom().nextBytes(nonce);
    var ciphertext = cipher(Cipher.ENCRYPT_MODE, key, nonce, room, sender).doFinal(payload);
    return ByteBuffer.allocate(1 + NONCE_BYTES + ciphertext.length)
        .put(VERSION)
        .put(nonce)
        .put(ciphertext)
        .array();
  }

  /** Decrypts. Throws if anything differs from what was sealed. */
  public static byte[] open(byte[] key, String room, String sender, byte[] sealed)
      throws GeneralSecurityException {
    if (sealed.length < 1 + NONCE_BYTES + TAG_BITS / 8 || sealed[0] != VERSION) {
      throw new AEADBadTagException("not a sealed payload of this version");
    }
    var nonce = java.util.Arrays.copyOfRange(sealed, 1, 1 + NONCE_BYTES);
    var begin = 1 + NONCE_BYTES;
    return cipher(Cipher.DECRYPT_MODE, key, nonce, room, sender)
        .doFinal(sealed, begin, sealed.length - begin);
  }

  private static Cipher cipher(int mode, byte[] key, byte[] nonce, String room, String sender)
      throws GeneralSecurityException {
    var cipher = Cipher.getInstance("AES/GCM/NoPadding");
    cipher.init(mode, new SecretKeySpec(key, "AES"), new GCMParameterSpec(TAG_BITS, nonce));
    var associated = new ByteArrayOutputStream();
    for (var part : new String[] {room, sender}) {
      var bytes = part.getBytes(StandardCharsets.UTF_8);
      associated.write(bytes.length >> 8);
      associated.write(bytes.length);
      associated.write(bytes, 0, bytes.length);
    }
    cipher.updateAAD(associated.toByteArray());
    return cipher;
  }
}
