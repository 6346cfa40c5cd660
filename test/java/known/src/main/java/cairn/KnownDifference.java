package cairn;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import org.junit.jupiter.api.extension.ExtendWith;

/** A scenario in which Cairn does otherwise than the reference, and is meant to. At the reference it has to fail, as is told here. */
@Target(ElementType.METHOD)
@Retention(RetentionPolicy.RUNTIME)
@ExtendWith(AtTheReference.class)
public @interface KnownDifference {
    /** Why Cairn does otherwise. */
    String value();

    /** What the scenario complains of at the reference, or a part of that. */
    String reference();
}
