package cairn;

import java.lang.reflect.AnnotatedElement;
import java.lang.reflect.Method;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.api.extension.ConditionEvaluationResult;
import org.junit.jupiter.api.extension.ExecutionCondition;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.InvocationInterceptor;
import org.junit.jupiter.api.extension.ReflectiveInvocationContext;
import org.opentest4j.TestAbortedException;

/**
 * Holds scenarios to what their annotations say of the reference, where -Dcairn.reference says that it is what they run against. A
 * line that begins with SAYS tells test/java/run.sh of each of them.
 */
class AtTheReference implements ExecutionCondition, InvocationInterceptor {
    static final String SAYS = "at the reference: ";
    private static final boolean IS = Boolean.getBoolean("cairn.reference");

    /** Looks at methods only, so that each of a class is counted. */
    @Override
    public ConditionEvaluationResult evaluateExecutionCondition(ExtensionContext context) {
        if (!IS || context.getTestMethod().isEmpty()) {
            return ConditionEvaluationResult.enabled(null);
        }
        Optional<OnlyCairn> only = Stream.<AnnotatedElement>of(context.getRequiredTestMethod(), context.getRequiredTestClass())
            .map(e -> e.getAnnotation(OnlyCairn.class)).filter(a -> a != null).findFirst();
        only.ifPresent(a -> say("not asked for", context.getRequiredTestMethod(), a.value()));
        return only.map(a -> ConditionEvaluationResult.disabled(a.value())).orElse(ConditionEvaluationResult.enabled(null));
    }

    @Override
    public void interceptTestMethod(Invocation<Void> scenario, ReflectiveInvocationContext<Method> of, ExtensionContext context) throws Throwable {
        KnownDifference known = of.getExecutable().getAnnotation(KnownDifference.class);
        if (!IS || known == null) {
            scenario.proceed();
            return;
        }
        try {
            scenario.proceed();
        } catch (Throwable t) {
            if (Stream.iterate(t, Objects::nonNull, Throwable::getCause).noneMatch(e -> e.toString().contains(known.reference()))) {
                throw t;
            }
            say("differs", of.getExecutable(), known.value());
            throw new TestAbortedException(known.value(), t);
        }
        throw new AssertionError("the reference does the same by now, so this difference is none: " + known.value());
    }

    private static void say(String what, Method scenario, String reason) {
        System.out.println(SAYS + what + ": " + scenario.getDeclaringClass().getSimpleName() + "." + scenario.getName() + ": " + reason);
    }
}
