import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import org.junit.jupiter.api.Test;

class EncryptionTest {
  private final byte[] key = new byte[32];
  private final byte[] payload = "secret".getBytes(StandardCharsets.UTF_8);

  @Test
  void whatIsSealedIsOpenedInTheSameRoomAndFromTheSameSenderOnly() throws Exception {
    var sealed = Encryption.seal(key, "room", "ann", payload);
    assertEquals(1 + 12 + payload.length + 16, sealed.length);
    assertArrayEquals(payload, Encryption.open(key, "room", "ann", sealed));
    assertRefused("room", "bob", sealed);
    assertRefused("rooma", "nn", sealed);
    for (var i = 0; i < sealed.length; i++) {
      var changed = sealed.clone();
      changed[i] ^= 1;
      assertRefused("room", "ann", changed);
    }
    assertRefused("room", "ann", new byte[0]);
  }

  private void assertRefused(String room, String sender, byte[] sealed) {
    assertThrows(GeneralSecurityException.class, () -> Encryption.open(key, room, sender, sealed));
  }
}
