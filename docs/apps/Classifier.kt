// Compiled by this project's tests against what MediaPipe Tasks (com.google.mediapipe:tasks-vision) and CameraX declare;
// NOT RUN: there is no Android SDK where they run.
//
// Classifies camera frames with a file of `fbnet-export --for mediapipe -o app/src/main/assets/model.tflite`: labels,
// pixels and threshold come from the file itself.

import android.content.Context
import androidx.camera.core.ImageProxy
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.ImageProcessingOptions
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier

class Classifier(context: Context) : AutoCloseable {
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifier.ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setRunningMode(RunningMode.IMAGE)
            .setMaxResults(3)
            .build(),
    )

    /** The names and probabilities of the likeliest classes of a frame, the likeliest first. */
    fun classify(frame: ImageProxy): List<Pair<String, Float>> {
        val rotation = ImageProcessingOptions.builder().setRotationDegrees(frame.imageInfo.rotationDegrees).build()
        val image = BitmapImageBuilder(frame.toBitmap()).build()
        val found = classifier.classify(image, rotation).classificationResult().classifications().first()
        return found.categories().map { it.categoryName() to it.score() }
    }

    override fun close() = classifier.close()
}
